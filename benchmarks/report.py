"""The report page at 700, 5,000 and 100,000 cells: its size, and the time to write it and to open it in a browser.

    python benchmarks/report.py [CHROMIUM]

5,000 simulated cells x 2,000 genes have perturbations and links. The 100,000 cells are twenty noisy copies of these,
without perturbations and links. Every page includes the plotting library; the printed ratio is the size of the page to
that of the library.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np
from scipy import sparse

import diffvae as dv

COPIES = 20
OPTIONS = ("--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--no-first-run", "--disable-sync")
OPTIONS += ("--disable-background-networking", "--disable-component-update")


def main(browser: str | None) -> None:
    from plotly.offline import get_plotlyjs

    library = len(get_plotlyjs())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        quick = {"max_epochs": 3, "n_clusters": 7, "cluster_method": "kmeans", "progress": False}
        dv.pipeline.run(out=folder / "700", source="CD34+", target=["Dendritic"], **quick)
        cells = dv.datasets.simulate_differentiation(5000, 2000, rng=0)
        root = str(cells.obs["cell_type"].iloc[int(np.argmin(cells.obs["pseudotime"]))])
        dv.pipeline.run(cells, folder / "5000", label_key="cell_type", source=root, **quick)
        many(folder / "5000", folder / "100000")
        for n in (700, 5000, 100_000):
            start = time.perf_counter()
            page = dv.report.write(folder / str(n))
            seconds = time.perf_counter() - start
            size = page.stat().st_size
            opened = "no browser named" if browser is None else f"opens in {load(page, browser):.1f} s"
            told = f"{size / 1e6:5.1f} MB, {size / library:.2f} x the library; written in {seconds:.1f} s; {opened}"
            print(f"{n:7,d} cells: {told}")


def many(folder: Path, out: Path) -> None:
    """Write a result with noisy copies of the cells of another one."""
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("links", "perturbation", "report.html"))
    cells = ad.read_h5ad(folder / "results.h5ad")
    del cells.obsp, cells.raw
    rng = np.random.default_rng(0)
    copies = [cells.copy() for _ in range(COPIES)]
    for copy in copies:
        copy.X = sparse.csr_matrix(copy.X)
        copy.X.data *= rng.uniform(0.9, 1.1, copy.X.nnz).astype(np.float32)
        for key in ("X_diffvae", "X_diffvae_tsne"):
            copy.obsm[key] = copy.obsm[key] + rng.normal(0, 0.3, copy.obsm[key].shape).astype(np.float32)
    whole = ad.concat(copies, merge="same", uns_merge="same", index_unique="-")
    whole.varm = cells.varm
    whole.write_h5ad(out / "results.h5ad")
    summary = json.loads((out / "summary.json").read_text())
    summary["n_cells"] = whole.n_obs
    (out / "summary.json").write_text(json.dumps(summary))


def load(page: Path, browser: str) -> float:
    """Return the seconds until the last figure is drawn, the shortest of three."""
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=OPTIONS)
        for _ in range(3):
            tab = opened.new_page(viewport={"width": 1280, "height": 900})
            start = time.perf_counter()
            tab.goto(page.as_uri())
            tab.wait_for_function("document.querySelectorAll('#made .main-svg').length > 0")
            found.append(time.perf_counter() - start)
            tab.close()
        opened.close()
    return min(found)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else shutil.which("chromium"))
