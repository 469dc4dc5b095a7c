"""Marker tables, matching of genes, and the score of gene sets against its null."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from diffvae.tl import load_markers
from diffvae.tl._markers import (
    GeneLevels,
    bundled_names,
    match_genes,
    pairwise_auc,
    read_markers,
    score_sets,
    share_votes,
)


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
    names = ["blood-human", "blood-mouse", "blood-zebrafish", "endocrine-mouse", "islet-human", "islet-mouse"]
    assert bundled_names() == names


def test_zebrafish_holds_table_1_of_the_paper_without_its_citation_numbers():
    table = load_markers("blood-zebrafish")
    paper = table[table["source"].str.contains("Bica")].groupby("cell_type")["gene"].agg(set)
    assert paper["HSPC"] == {"si:ch211-161c3.6", "cad", "pcna"}
    assert paper["Neutrophil"] == {"illr4", "ponzr6", "npsn", "abcb9", "lyz"}
    assert paper["Monocyte"] == {"lgals2a", "c1qc", "c1qa", "s100a10b", "mafbb"}
    assert paper["Erythrocyte"] == {"alas2", "ba1l", "aqp1a.1", "hbaa1", "slc4a1a", "ba1", "si:xx-by187g17.1"}
    assert paper["Thrombocyte"] == {"fn1b", "itga2b", "bmp6", "thbs1b", "fhl1a", "ctgfa", "apln"}


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


@pytest.mark.parametrize(
    ("markers", "sentence"),
    [
        ({"T": "CD3D,CD3E"}, r"markers\['T'\] is the string 'CD3D,CD3E'; give a list"),
        ({}, "holds no marker genes"),
        (pd.DataFrame({"cell_type": ["T"], "symbol": ["CD3D"]}), r"lacks the column 'gene'; .* has: cell_type, symbol"),
        (
            pd.DataFrame({"cell_type": ["T"], "gene": ["CD3D"], "direction": ["sideways"]}),
            "direction 'sideways'",
        ),
        (
            pd.DataFrame({"cell_type": "T", "gene": "CD3D", "direction": ["up", "down"]}),
            "'CD3D' both up and down",
        ),
        (3, "markers is of type int"),
        ("empty.csv", "can't be read as a table"),
        ("blood", "'blood' is neither a bundled marker table"),
    ],
)
def test_refusals(tmp_path, monkeypatch, markers, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ValueError, match=sentence):
        read_markers(markers)
    with pytest.raises(ValueError, match="no bundled marker table 'blood'; the tables are: blood-human, "):
        load_markers("blood")


def test_genes_match_exactly_first_then_without_case():
    names = pd.Index(["Cd3d", "CD3D", "Ms4a1", "Dup", "Dup", "lyz", "LYZ"])
    genes = pd.Series(["CD3D", "MS4A1", "Dup", "Lyz", "absent"])
    assert match_genes(genes, names).tolist() == [1, 2, 3, -1, -1]


def brute_force(x, codes):
    groups = np.unique(codes)
    out = np.zeros((len(groups), x.shape[1]))
    for c in groups:
        for other in groups[groups != c]:
            a, b = x[codes == c][:, None], x[codes == other][None]
            out[c] += (np.sign(a - b)).mean(axis=(0, 1)) / (len(groups) - 1)
    return out


def test_dominance_worked_by_hand():
    x, codes = np.array([[2.0], [0.0], [1.0], [0.0], [0.0], [0.0]]), np.array([0, 0, 1, 1, 2, 2])
    # First against second: 2 > 1, 2 > 0, 0 < 1, 0 = 0: (1 + 1 - 1 + 0) / 4; against third: 2 of 4, no losses.
    assert pairwise_auc(x, codes, np.ones(3))[0, 0] == pytest.approx((0.25 + 0.5) / 2)


@pytest.mark.parametrize("shift", [0.0, -1.0])
def test_dominance_is_the_mean_over_pairs_of_cells_dense_and_sparse(shift):
    rng = np.random.default_rng(0)
    x = rng.poisson(0.7, (50, 8)).astype(float)
    x[:, 7] = 0.0
    x[x > 0] += shift * 1.5
    codes = np.repeat([0, 1, 2, 3], [3, 7, 30, 10])
    expected = brute_force(x, codes)
    np.testing.assert_allclose(pairwise_auc(x, codes, np.ones(4)), expected, atol=1e-12)
    for format in (sp.csr_matrix, sp.csc_matrix, sp.csr_array):
        np.testing.assert_allclose(pairwise_auc(format(x), codes, np.ones(4)), expected, atol=1e-12)


def test_votes_weigh_the_other_groups_whatever_their_size():
    x, codes = np.array([[3.0], [1.0], [2.0], [0.0], [0.0], [1.0]]), np.array([0, 0, 1, 1, 2, 2])
    many = np.r_[np.arange(6), np.repeat([2, 3], 20)]
    np.testing.assert_allclose(pairwise_auc(x, codes, np.ones(3)), pairwise_auc(x[many], codes[many], np.ones(3)))
    # the first lies above the second (+1, one vote) and below the third (-1, three votes)
    x, codes = np.array([[2.0], [1.0], [3.0]]), np.array([0, 1, 2])
    assert pairwise_auc(x, codes, np.array([50.0, 1.0, 3.0]))[0, 0] == pytest.approx((1 - 3) / 4)


def test_groups_that_look_alike_share_a_vote():
    a, b = np.array([1.0, -1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0, -1.0])
    np.testing.assert_allclose(share_votes(np.stack([a, a, a, b])), [1 / 3, 1 / 3, 1 / 3, 1])
    np.testing.assert_allclose(share_votes(np.stack([a, -a, b])), 1)
    np.testing.assert_allclose(share_votes(np.zeros((2, 4))), 1)


def test_cutting_a_type_into_parts_leaves_its_markers_strong():
    rng = np.random.default_rng(0)
    types = np.repeat([0, 1, 2], [160, 40, 40])
    x = rng.exponential(1.0, (240, 300))
    for t in range(3):
        x[types == t, 60 * t : 60 * (t + 1)] += 1.0
    parts = np.where(types == 0, np.arange(240) % 4 + 2, types - 1)
    whole = pairwise_auc(x, types, np.ones(3))[0, :60].mean()
    drowned = pairwise_auc(x, parts, np.ones(6))
    votes = share_votes(drowned)
    assert (votes[2:] < 0.5 * votes[:2].min()).all()
    shared = pairwise_auc(x, parts, votes)[2:, :60].mean()
    assert 1.3 * drowned[2:, :60].mean() < shared < whole


def test_one_group_has_no_dominance_and_input_is_left_as_it_is():
    assert not pairwise_auc(np.ones((4, 2)), np.zeros(4, int), np.ones(1)).any()
    x = sp.csr_matrix((np.array([1.0, 0.0, 2.0]), np.array([0, 1, 1]), np.array([0, 2, 3])))
    pairwise_auc(x, np.array([0, 1]), np.ones(2))
    assert x.nnz == 3


def simulate(n_genes=600, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.repeat([0, 1, 2], 40)
    x = rng.exponential(1.0, (120, n_genes)) * (rng.random((120, n_genes)) < 0.5)
    x[codes == 0, :5] += 1.0
    return x, codes


def gene_set(*positions, sign=1.0):
    size = len(positions)
    frame = {"gene": [f"g{p}" for p in positions], "position": positions}
    return pd.DataFrame(frame | {"weight": np.ones(size), "sign": np.full(size, sign)})


def test_score_sees_the_set_and_counts_it():
    x, codes = simulate()
    delta = pairwise_auc(x, codes, np.ones(3))
    sets = {"true": gene_set(0, 1, 2, 3, 4), "other": gene_set(50, 51, 52)}
    table = score_sets(delta, sets, GeneLevels(x, 0), 999, 0).set_index(["group", "cell_type"])
    assert table.loc[(0, "true"), "p_value"] == 0.001
    assert table.loc[(0, "true"), "score"] == pytest.approx(delta[0, :5].mean(), abs=0.1)
    assert table.loc[(0, "true"), "n_up"] == table.loc[(0, "true"), "n_markers"] == 5
    assert table.loc[(1, "true"), "p_value"] > 0.9
    assert table.loc[(0, "other"), "p_value"] > 0.01
    assert set(table.loc[(0, "true"), "genes"].split(",")) == {"g0", "g1", "g2", "g3", "g4"}


def test_genes_that_should_be_absent_count_by_their_absence():
    x, codes = simulate()
    delta, levels = pairwise_auc(x, codes, np.ones(3)), GeneLevels(x, 0)
    up = score_sets(delta, {"t": gene_set(0, 1)}, levels, 99, 0)["score"]
    down = score_sets(delta, {"t": gene_set(0, 1, sign=-1.0)}, levels, 99, 0)
    np.testing.assert_allclose(down["score"], -up)
    assert down.loc[1, "genes"] in {"g0-,g1-", "g1-,g0-"}


def test_p_values_of_random_sets_are_uniform():
    x, codes = simulate()
    delta, levels = pairwise_auc(x, codes, np.ones(3)), GeneLevels(x, 0)
    rng = np.random.default_rng(1)
    sets = {str(i): gene_set(*rng.choice(np.arange(5, 600), 6, replace=False)) for i in range(150)}
    p = score_sets(delta, sets, levels, 200, 0)["p_value"]
    assert 0.02 < (p <= 0.05).mean() < 0.09
    assert 0.43 < p.mean() < 0.57


def test_controls_are_expressed_of_the_same_level_and_not_of_the_set():
    x, _ = simulate(n_genes=400)
    levels, genes = GeneLevels(x, 0), np.array([7, 8])
    assert levels.level.max() == 400 // 50 - 1
    pool = levels.pool(7, genes)
    assert (levels.level[pool] == levels.level[7]).all()
    assert not np.isin(genes, pool).any()
    x[:, 60:] = 0.0
    assert np.concatenate(GeneLevels(sp.csr_matrix(x), 0).controls).max() < 60


def test_a_set_of_all_genes_is_never_special():
    x, codes = simulate(n_genes=4)
    table = score_sets(pairwise_auc(x, codes, np.ones(3)), {"all": gene_set(0, 1, 2, 3)}, GeneLevels(x, 0), 99, 0)
    assert (table["p_value"] > 0.05).all()


def test_endocrine_lineage_has_its_progenitors_and_no_gene_for_two_of_them():
    table = load_markers("endocrine-mouse")
    up = table[table["direction"] == "up"].groupby("cell_type")["gene"].agg(set)
    assert {"Sox9", "Spp1"} <= up["Ductal progenitor"]
    assert "Neurog3" in up["Endocrine progenitor"]
    assert "Fev" in up["Endocrine precursor"]
    stages = ["Ductal progenitor", "Endocrine progenitor", "Endocrine precursor"]
    assert sum(len(up[t]) for t in stages) == len(set().union(*up[stages]))
    assert all("Pyy" not in genes for genes in up)  # all hormone cells of the embryo express it


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_a_table_of_markers_as_people_write_it(tmp_path, separator, encoding):
    lines = [["cell_type", "gene"], ["T cell, CD4", "CD3D"], ["Zelle é", "MS4A1"]]
    quoted = [[f'"{field}"' if separator in field else field for field in line] for line in lines]
    text = "# my markers, of 2020\r\n\r\n" + "".join(separator.join(line) + separator + "\r\n" for line in quoted)
    (tmp_path / "m.txt").write_bytes(text.encode(encoding))
    table = read_markers(tmp_path / "m.txt")[1]
    assert table["cell_type"].tolist() == ["T cell, CD4", "Zelle é"]
    assert table["gene"].tolist() == ["CD3D", "MS4A1"]
