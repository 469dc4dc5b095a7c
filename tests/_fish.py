"""Small simulated files in the format of the published zebrafish data; genes of Table 1 mark their types."""

import numpy as np

from diffvae.benchmark.reproduction._subject import published

SIZES = {"HSPC": 30, "Neutrophils": 24, "Monocytes": 22, "Erythrocytes": 20, "Thrombocytes": 20}


def write_fish(folder, rng=0):
    """Write GE_mvg.csv, CV_genes.csv and Annotation_File.csv; the last published gene of each type is missing."""
    random = np.random.default_rng(rng)
    published_genes = published()["zebrafish"].genes
    markers = [(gene, kind) for kind, genes in published_genes.items() for gene in genes[:-1]]
    genes = [gene for gene, _ in markers] + [f"other{i}" for i in range(20)]
    types = np.repeat(list(SIZES), list(SIZES.values()))
    values = random.gamma(1.0, 0.5, (len(types), len(genes)))
    for column, (_, kind) in enumerate(markers):
        values[types == kind, column] += 3
    folder.mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / "GE_mvg.csv", values.round(4), delimiter=",", fmt="%g")
    rows = "".join(f'"{i}","ENSDARG{i:011d},{gene},1,protein_coding"\n' for i, gene in enumerate(genes, 1))
    (folder / "CV_genes.csv").write_text('"","gene"\n' + rows)
    cells = "".join(f'"cell_{i}","Tg(cd41:eGFP)",{i / 2},"3","{kind}"\n' for i, kind in enumerate(types))
    (folder / "Annotation_File.csv").write_text('"","Tg_Detailed","Pseudotime","State","Type"\n' + cells)
    return folder
