"""Draw the README's pictures anew from what ``make demo`` wrote: ``python docs/images.py`` (needs Chromium)."""

import json
import os
import shutil
from pathlib import Path

import anndata as ad
from PIL import Image
from playwright.sync_api import sync_playwright

import diffvae as dv
from diffvae.pipeline._perturb import file_name

HEIGHT = 1420
root = Path(__file__).parents[1]
adata = ad.read_h5ad(root / "demo" / "results.h5ad")
images = root / "docs" / "images"
images.mkdir(exist_ok=True)
dv.pl.save(dv.pl.tsne(adata, color="diffvae_cell_type"), images / "tsne_cell_types", formats=("png",), dpi=100)
dv.pl.save(dv.pl.latent_dimensions(adata), images / "latent_dimensions", formats=("png",), dpi=100)
dv.pl.save(dv.pl.adjacency(adata, "cell_type")[0], images / "adjacency", formats=("png",), dpi=100)
targets = json.loads((root / "demo/perturbation/summary.json").read_text())["targets"]
most = max((t for t in targets if t["searched"]), key=lambda t: t["judged"])
pair = f"{file_name(most['source'])}_to_{file_name(most['target'])}"
shutil.copy(root / f"demo/perturbation/figures/minimal_genes_{pair}.png", images / "minimal_genes.png")
stages = {"earlier": ["Ductal", "Ngn3 low EP", "Ngn3 high EP"], "targets": ["Alpha", "Beta", "Delta", "Epsilon"]}
dv.tl.commitment(adata, "Pre-endocrine", "cell_type", **stages, min_core=0.1)
dv.tl.fates(adata, "Pre-endocrine", "cell_type", **stages, n_bootstraps=20, split_by="diffvae_commitment")
dv.pl.save(dv.pl.fates(adata)[0], images / "fates", formats=("png",), dpi=100)
with sync_playwright() as playwright:
    options = ("--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-background-networking")
    program = os.environ.get("DIFFVAE_BROWSER") or shutil.which("chromium")
    browser = playwright.chromium.launch(executable_path=program, args=options)
    page = browser.new_page(viewport={"width": 1280, "height": HEIGHT}, color_scheme="light")
    page.goto((root / "demo" / "report.html").as_uri())
    page.wait_for_function("document.querySelectorAll('#made .main-svg').length > 0")
    page.add_style_tag(
        content="#found > :not(h2, .card), nav { display: none !important }"
    )  # the summary, then the map
    page.screenshot(path=images / "report.png", clip={"x": 0, "y": 0, "width": 1280, "height": HEIGHT})
    browser.close()
for picture in images.glob("*.png"):  # few colours are enough, and a third of the bytes
    Image.open(picture).convert("RGB").quantize(128).save(picture, optimize=True)
