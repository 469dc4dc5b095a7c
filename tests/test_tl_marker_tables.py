import pandas as pd
import pytest

from diffvae.tl import load_markers
from diffvae.tl._markers import bundled_names, match_genes, read_markers


@pytest.mark.parametrize("name", bundled_names())
def test_bundled_tables_are_clean_and_give_their_sources(name):
    table = load_markers(name)
    assert table.columns.tolist() == ["cell_type", "gene", "direction", "source"]
    assert table.notna().all().all()
    assert (table["source"].str.len() > 0).all()
    assert not table.duplicated(["cell_type", "gene"]).any()
    sizes = table[table["direction"] == "up"].groupby("cell_type").size()
    assert sizes.between(5, 12).all()
    pd.testing.assert_frame_equal(read_markers(table)[1], table)
    assert read_markers(name)[0] == name


def test_five_tables():
    assert bundled_names() == ["blood-human", "blood-mouse", "blood-zebrafish", "islet-human", "islet-mouse"]


def test_zebrafish_holds_table_1_of_the_paper_without_its_citation_numbers():
    table = load_markers("blood-zebrafish")
    paper = table[table["source"].str.contains("Bica")].groupby("cell_type")["gene"].agg(set)
    assert paper["HSPC"] == {"si:ch211-161c3.6", "cad", "pcna"}
    assert paper["Neutrophil"] == {"illr4", "ponzr6", "npsn", "abcb9", "lyz"}
    assert paper["Monocyte"] == {"lgals2a", "c1qc", "c1qa", "s100a10b", "mafbb"}
    assert paper["Erythrocyte"] == {
        "alas2",
        "ba1l",
        "aqp1a.1",
        "hbaa1",
        "slc4a1a",
        "ba1",
        "si:xx-by187g17.1",
    }
    assert paper["Thrombocyte"] == {"fn1b", "itga2b", "bmp6", "thbs1b", "fhl1a", "ctgfa", "apln"}


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="no bundled marker table 'blood'; there are: blood-human, "):
        load_markers("blood")
    with pytest.raises(ValueError, match="'blood' is neither a bundled marker table"):
        read_markers("blood")


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t"), (".csv.gz", ",")])
def test_files_dictionaries_and_frames_read_alike(tmp_path, suffix, separator):
    frame = pd.DataFrame({"cell_type": ["T", "T", "B"], "gene": ["CD3D", "CD3E ", "MS4A1"], "extra": 1})
    path = tmp_path / f"markers{suffix}"
    frame.to_csv(path, sep=separator, index=False)
    name, table = read_markers(path)
    assert name == path.name
    assert table["gene"].tolist() == ["CD3D", "CD3E", "MS4A1"]
    assert table["direction"].tolist() == ["up"] * 3
    pd.testing.assert_frame_equal(read_markers(str(path))[1], table)
    pd.testing.assert_frame_equal(read_markers(frame)[1], table)
    pd.testing.assert_frame_equal(read_markers({"T": ["CD3D", "CD3E"], "B": ["MS4A1"]})[1], table)


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match=r"markers\['T'\] is the text 'CD3D,CD3E'; give a list"):
        read_markers({"T": "CD3D,CD3E"})
    with pytest.raises(ValueError, match="holds no marker genes"):
        read_markers({})
    with pytest.raises(ValueError, match=r"lacks the column 'gene'; .* It has: cell_type, symbol"):
        read_markers(pd.DataFrame({"cell_type": ["T"], "symbol": ["CD3D"]}))
    with pytest.raises(ValueError, match="direction 'sideways'; use 'up' or 'down'"):
        read_markers(pd.DataFrame({"cell_type": ["T"], "gene": ["CD3D"], "direction": ["sideways"]}))
    with pytest.raises(ValueError, match="lists 'CD3D' both up and down for 'T'"):
        read_markers(pd.DataFrame({"cell_type": "T", "gene": "CD3D", "direction": ["up", "down"]}))
    with pytest.raises(ValueError, match="markers is of type int"):
        read_markers(3)
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ValueError, match="can't be read as a table"):
        read_markers(tmp_path / "empty.csv")


def test_genes_match_exactly_first_then_without_case():
    names = pd.Index(["Cd3d", "CD3D", "Ms4a1", "Dup", "Dup", "lyz", "LYZ"])
    genes = pd.Series(["CD3D", "MS4A1", "Dup", "Lyz", "absent"])
    assert match_genes(genes, names).tolist() == [1, 2, 3, -1, -1]
