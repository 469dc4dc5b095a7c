"""Make the file of the bundled cells: ``python docs/bundle_pancreas.py pancreas_endocrinogenesis.h5ad``.

The source is an AnnData with UMI counts of 3,696 cells (Bastidas-Ponce et al. 2019, GSE132188, E15.5) in ``X``, symbols
in ``var_names``, the types in ``obs["cell_type"]``, and the scores and totals of ``OBS``. It was made from the data of
the R package SuperCell (github.com/GfellerLab/SuperCell, data/pancreas.rda, commit 5de820e9), which has 2,000 genes and
the types of scVelo's ``pancreas()``. The same source gives the same bytes.

Kept are all cells of types with fewer than 200, others at random; the 1,000 genes whose log-normalised expression
varies most among these cells, and all markers and regulators of the islet lineage that the source has.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import anndata as ad
import numpy as np

import diffvae as dv

N_CELLS, RARE, N_GENES, SEED = 2000, 200, 1000, 0
OUT = Path(dv.__file__).parent / "datasets" / "pancreas_endocrinogenesis.npz"
OBS = {"S_score": np.float16, "G2M_score": np.float16, "total_spliced_counts_all_genes": np.uint32}
REGULATORS = (
    "Arx", "Bhlhe22", "Cbfa2t2", "Cbfa2t3", "Cer1", "Dll1", "Etv1", "Fev", "Foxa1", "Foxa2", "Gata4", "Gata6",
    "Glis3", "Hes1", "Hhex", "Hnf1b", "Insm1", "Irx1", "Irx2", "Isl1", "Lmx1a", "Lmx1b", "Mafa", "Mafb", "Mnx1",
    "Myt1", "Neurod1", "Neurod2", "Neurog3", "Nkx2-2", "Nkx6-1", "Onecut1", "Pax4", "Pax6", "Pdx1", "Peg3",
    "Pou3f4", "Ptf1a", "Rfx3", "Rfx6", "Runx1t1", "Smarca2", "Sox11", "Sox4", "Sox9", "St18", "Tle4", "Tox3",
    "Zbtb20",
)  # fmt: skip
"""Known regulators of the islet lineage; the source lacks some."""
TABLES = ("islet-mouse", "islet-human", "blood-mouse", "blood-human", "blood-zebrafish")


def chosen_cells(types: np.ndarray, n_cells: int = N_CELLS) -> np.ndarray:
    """Return which cells to keep (a mask): all of the rare types, the rest at random."""
    names, sizes = np.unique(types, return_counts=True)
    keep = np.isin(types, names[sizes < RARE])
    others = np.flatnonzero(~keep)
    keep[np.random.default_rng(SEED).choice(others, n_cells - keep.sum(), replace=False)] = True
    return keep


def chosen_genes(genes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return which genes to keep (a mask): the most variable, and of those in any cell the markers and regulators."""
    named = {gene.upper() for table in TABLES for gene in dv.tl.load_markers(table)["gene"]}
    named |= {gene.upper() for gene in REGULATORS}
    wanted = np.array([gene.upper() in named for gene in genes])
    log = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    variable = np.zeros(len(genes), dtype=bool)
    variable[np.argsort(-log.var(axis=0), kind="stable")[:N_GENES]] = True
    return variable | (wanted & (counts > 0).any(axis=0))


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as ``numpy.load`` reads them, compressed by LZMA, without the time of writing."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        for name, values in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, values, allow_pickle=False)
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), zipfile.ZIP_LZMA)


def main() -> None:
    """Read the source, choose cells and genes, write the file and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    source = ad.read_h5ad(given.source)
    types = source.obs["cell_type"].astype(str).to_numpy()
    keep = chosen_cells(types)
    counts = source.X[keep].toarray()
    assert (counts == np.rint(counts)).all()
    assert counts.max() < 2**16
    assert source.var_names.is_unique
    genes = chosen_genes(source.var_names.to_numpy(str), counts.astype(np.float64))
    # genes in rows, because their values are alike; low and high bytes apart, because the high ones are nearly all 0
    by_gene = counts[:, genes].T.astype(np.uint16)
    names, codes = np.unique(types[keep], return_inverse=True)
    write(
        given.out,
        {
            "low": (by_gene & 255).astype(np.uint8),
            "high": (by_gene >> 8).astype(np.uint8),
            "genes": source.var_names[genes].to_numpy(str).astype("S"),
            "cells": source.obs_names[keep].to_numpy(str).astype("S"),
            "types": names.astype("S"),
            "type_of_cell": codes.astype(np.uint8),
            **{name: source.obs[name].to_numpy()[keep].astype(kind) for name, kind in OBS.items()},
        },
    )
    lacking = sorted(set(REGULATORS) - set(source.var_names[genes]))
    print(f"{given.out.name}: {keep.sum():,} cells x {genes.sum():,} genes, {given.out.stat().st_size:,} bytes")
    print("types:", dict(zip(names.tolist(), np.bincount(codes).tolist(), strict=True)))
    print("regulators that the source lacks or these cells do not express:", ", ".join(lacking))


if __name__ == "__main__":
    main()
