"""Draw the README's pictures anew from what ``make demo`` wrote: ``python docs/images.py``."""

import json
import shutil
from pathlib import Path

import anndata as ad
from PIL import Image

import diffvae as dv
from diffvae._changes_folder import file_name

root = Path(__file__).parents[1]
adata = ad.read_h5ad(root / "demo" / "results.h5ad")
images = root / "docs" / "images"
images.mkdir(exist_ok=True)
dv.pl.save(dv.pl.tsne(adata, color="diffvae_cell_type"), images / "tsne_cell_types", formats=("png",), dpi=100)
dv.pl.save(dv.pl.latent_dimensions(adata), images / "latent_dimensions", formats=("png",), dpi=100)
dv.pl.save(dv.pl.adjacency(adata, "cell_type")[0], images / "adjacency", formats=("png",), dpi=100)
targets = json.loads((root / "demo/perturbation/summary.json").read_text())["targets"]
most = max(targets, key=lambda t: t["converted"])["target"]
shutil.copy(root / f"demo/perturbation/figures/minimal_genes_{file_name(most)}.png", images / "minimal_genes.png")
for picture in images.glob("*.png"):  # few colours are enough, and a third of the bytes
    Image.open(picture).convert("RGB").quantize(128).save(picture, optimize=True)
