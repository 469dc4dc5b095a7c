"""Transcription factors, and lists of genes as they are published."""

import numpy as np
import pandas as pd
import pytest

from diffvae._errors import DataError
from diffvae.tl._minimal_genes import allowed_genes
from diffvae.tl._regulators import read_genes, transcription_factors


def test_factors_of_three_species_are_known_and_other_genes_are_not():
    factors = [
        "GATA1",
        "Gata1",
        "gata1",
        "gata1a",
        "PDX1",
        "Pdx1",
        "Arx",
        "Neurog3",
        "Irf8",
        "Klf1",
        "Gfi1",
        "Cebpe",
        "Isl1",
    ]
    others = ["HBB", "Csf1r", "Pf4", "Itga2b", "Elane", "INS", "Gcg", "ACTB", "ENSG00000102145", "hbaa1", ""]
    assert transcription_factors(factors).all()
    assert not transcription_factors(others).any()


def test_only_a_copy_of_zebrafish_loses_its_letter():
    assert transcription_factors(["sox9a", "sox9b"]).all()
    assert not transcription_factors(["Sox9a", "SOX9B", "sox9c"]).any()


@pytest.mark.parametrize(
    ("text", "genes"),
    [
        ("LYZ\nCD14\n", ["LYZ", "CD14"]),
        ("\ufeffLYZ\nCD14\n", ["LYZ", "CD14"]),
        ("# mine\nLYZ  lysozyme\n\nCD14,\n", ["LYZ", "CD14"]),
        ("Species\tSymbol\tEnsembl\nHomo_sapiens\tLYZ\tENSG1\nHomo_sapiens\tCD14\tENSG2\n", ["LYZ", "CD14"]),
        (
            ",Ensembl ID,HGNC symbol,DBD,Is TF?\n0,ENSG1,LYZ,bHLH,Yes\n1,ENSG2,CD3D,bHLH,No\n2,ENSG3,CD14,x,Yes\n",
            ["LYZ", "CD14"],
        ),
        ('"gene","score"\n"LYZ","1"\n"CD14","2"\n', ["LYZ", "CD14"]),
    ],
)
def test_lists_are_read_as_they_are_published(tmp_path, text, genes):
    (tmp_path / "list.txt").write_text(text, encoding="utf-8")
    assert read_genes(tmp_path / "list.txt") == genes
    allowed = allowed_genes(pd.Index(["CD14", "CD3D", "LYZ"]), tmp_path / "list.txt")
    assert allowed.tolist() == [True, False, True]


def test_restrict_is_tf_a_list_or_a_file():
    genes = pd.Index(["GATA1", "HBB"])
    assert allowed_genes(genes, None).all()
    assert allowed_genes(genes, "tf").tolist() == [True, False]
    assert allowed_genes(genes, ["HBB"]).tolist() == [False, True]
    with pytest.raises(
        DataError, match="None of the transcription factors is among the model's 1 genes, such as 'HBB'"
    ):
        allowed_genes(genes[1:], "tf")
    with pytest.raises(DataError, match="None of the 1 genes of restrict"):
        allowed_genes(genes, ["nope"])
    with pytest.raises(DataError, match="there is no such file; give 'tf', a list of genes"):
        allowed_genes(genes, "nope.txt")
    assert isinstance(allowed_genes(genes, np.array(["HBB"])), np.ndarray)


def test_the_terminal_marks_factors():
    from diffvae.cli._perturb import marked

    assert marked("Gata1, Hbb, Klf1") == "Gata1* Hbb Klf1*"
    assert marked("") == ""


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_lists_of_genes_as_people_write_them(tmp_path, encoding):
    file = tmp_path / "list.txt"
    for text in (
        "LYZ\r\nCD14\r\n",
        "Species;Symbol;Größe\nHomo_sapiens;LYZ;1\nHomo_sapiens;CD14;2\n",
        "Homo_sapiens\tENSG00000090382\tLYZ\nHomo_sapiens\tENSG00000170458\tCD14\n",
    ):
        file.write_bytes(text.encode(encoding))
        assert read_genes(file) == ["LYZ", "CD14"]
