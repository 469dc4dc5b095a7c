from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

from diffvae.tl import annotate, load_markers
from diffvae.tl._annotate import disagreement

DATA = Path(__file__).parents[2] / "shared" / "data"
MARKERS = {"A": ["a1", "a2", "a3", "a4"], "B": ["b1", "b2", "b3"], "C": ["c1", "c2", "c3"], "D": ["d1", "d2"]}


def make(n_genes=400, seed=0, effect=1.5):
    """Three types, four clusters (type A in two); nobody is of type D, whose markers are there all the same."""
    rng = np.random.default_rng(seed)
    types = np.repeat(["A", "A", "B", "C"], 30)
    names = [gene for genes in MARKERS.values() for gene in genes]
    names += [f"g{i}" for i in range(n_genes - len(names))]
    x = rng.exponential(1.0, (120, n_genes)) * (rng.random((120, n_genes)) < 0.4)
    for t, genes in MARKERS.items():
        x[np.ix_(types == t, [names.index(g) for g in genes])] += effect
    adata = ad.AnnData(sp.csr_matrix(x), var=pd.DataFrame(index=names))
    adata.obs_names = [f"cell{i}" for i in range(120)]
    adata.obs["type"] = types
    adata.obs["diffvae_cluster"] = pd.Categorical(np.repeat(["0", "1", "2", "3"], 30))
    return adata


def table_of(adata):
    return adata.uns["diffvae"]["annotation"].set_index("group")


def fast(adata, markers=MARKERS, **kwargs):
    annotate(adata, markers, **({"n_permutations": 2000} | kwargs))
    return table_of(adata)


def test_clusters_get_the_names_of_their_types():
    adata = make()
    table = fast(adata)
    assert adata.obs["diffvae_cell_type"].tolist() == adata.obs["type"].tolist()
    assert adata.obs["diffvae_cell_type"].cat.categories.tolist() == ["A", "B", "C"]
    assert (table["q_value"] < 0.01).all()
    assert table["confident"].all()
    assert (table["n_cells"] == 30).all()
    assert set(table.loc["2", "genes"].split(",")) == set(MARKERS["B"])
    assert (table["runner_up_score"] < table["score"]).all()
    assert (table["reason"] == "").all()
    assert (table["by_weights"] == "").all()
    assert table["agree"].isna().all()
    scores = adata.uns["diffvae"]["annotation_scores"]
    assert len(scores) == 4 * 4
    assert scores["p_value"].between(0, 1).all()


def test_without_evidence_clusters_stay_unassigned_and_say_why():
    adata = make(effect=0.0)
    table = fast(adata)
    assert adata.obs["diffvae_cell_type"].cat.categories.tolist() == ["unassigned"]
    assert set(table["reason"]) <= {"q-value above 0.05", "score below 0.1"}
    assert (table["best"] != "").all()
    assert not table["confident"].any()


def test_one_marker_is_not_enough_unless_asked_for():
    adata = make()
    table = fast(adata, {"A": ["a1", "nowhere"], "B": MARKERS["B"]})
    assert "A" not in set(table["best"])
    table = fast(adata, {"A": ["a1", "nowhere"], "B": MARKERS["B"]}, min_genes=1, max_q=0.2)
    assert table.loc["0", "cell_type"] == "A"
    assert table.loc["0", "n_markers"] == 1


def test_markers_that_do_not_speak_for_it_are_too_few():
    adata = make()
    sets = {"A": ["a1", "b1", "c1"], "B": MARKERS["B"], "C": MARKERS["C"]}
    table = fast(adata, sets, max_q=1.0, min_score=-1.0, min_genes=3)
    assert "A" not in set(table["cell_type"])


def test_near_equal_names_are_marked():
    adata = make()
    table = fast(adata, {"A": ["a1", "a2"], "A too": ["a3", "a4"], "B": MARKERS["B"]})
    assert set(table.loc[["0", "1"], "cell_type"]) <= {"A / A too", "A too / A"}  # neither is certain: both are named
    assert not table.loc[["0", "1"], "confident"].any()
    assert table.loc["2", "confident"]


def test_shared_markers_weigh_less():
    adata = make()
    # Both have the markers of A; the one that has fewer besides is right about them.
    sets = {"A": ["a1", "a2", "a3"], "wrong": ["a1", "g1", "g2", "g3"], "B": ["b1", "b2"]}
    scores = {}
    for name, genes in (("shared", sets), ("own", sets | {"wrong": ["a4", "g1", "g2", "g3"]})):
        fast(adata, genes)
        table = adata.uns["diffvae"]["annotation_scores"].set_index(["group", "cell_type"])
        scores[name] = table.loc[("0", "wrong"), "score"]
    assert scores["shared"] < scores["own"]


def test_genes_that_should_be_absent_tell_neighbours_apart():
    adata = make()
    markers = pd.DataFrame(
        {
            "cell_type": ["A", "A", "A not"] + ["A not"] * 3,
            "gene": ["a1", "a2", "a1", "a2", "a3", "a4"],
            "direction": ["up", "up", "up", "up", "down", "down"],
        }
    )
    table = fast(adata, markers)
    assert table.loc["0", "cell_type"] == "A"
    assert table.loc["0", "confident"]


def test_dense_sparse_raw_layer_and_order_of_cells_agree():
    sparse = make()
    expected = fast(sparse)
    dense = make()
    dense.X = dense.X.toarray()
    raw = make()
    raw.raw = raw.copy()
    raw = raw[:, raw.var_names.str.startswith("g")].copy()
    layer = make()
    layer.layers["log"] = layer.X.copy()
    layer.X = layer.X * 0
    shuffled = make()[np.random.default_rng(0).permutation(120)].copy()
    squared = make()
    squared.X = squared.X.power(2)  # only ranks within a gene matter
    assert fast(squared)["cell_type"].tolist() == expected["cell_type"].tolist()
    for adata, kwargs in ((dense, {}), (raw, {}), (layer, {"layer": "log"}), (shuffled, {})):
        pd.testing.assert_frame_equal(fast(adata, **kwargs), expected)
    with pytest.raises(ValueError, match=r"None of the 12 marker genes \('a1', .* is among the genes of adata.X"):
        fast(raw, use_raw=False)


def test_same_seed_same_table_other_seed_other():
    p = []
    for seed in (0, 0, 1):
        adata = make(effect=0.4)
        fast(adata, rng=seed)
        p.append(adata.uns["diffvae"]["annotation_scores"]["p_value"].to_numpy())
    np.testing.assert_array_equal(p[0], p[1])
    assert (p[0] != p[2]).any()
    generator = np.random.default_rng(0)
    assert fast(make(), rng=generator)["cell_type"].tolist() == ["A", "A", "B", "C"]


def test_copy_leaves_the_input_alone():
    adata = make()
    result = annotate(adata, MARKERS, copy=True, n_permutations=100, key_added="name", max_q=0.1)
    assert "name" in result.obs
    assert "name" not in adata.obs
    assert "diffvae" not in adata.uns


def test_symbols_in_a_column_and_names_in_another_case():
    adata = make()
    adata.var["symbol"] = adata.var_names.str.upper()
    adata.var_names = [f"ENSG{i:011d}" for i in range(adata.n_vars)]
    assert fast(adata, gene_symbols="symbol")["cell_type"].tolist() == ["A", "A", "B", "C"]
    with pytest.raises(ValueError, match=r"adata.var has no column 'name'; it has: symbol"):
        fast(adata, gene_symbols="name")


def test_result_survives_a_file(tmp_path):
    adata = make()
    adata.uns["diffvae"] = {"high_weight_genes": high_weight({"0": MARKERS["A"], "2": MARKERS["C"]})}
    fast(adata)
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    assert back.obs["diffvae_cell_type"].tolist() == adata.obs["diffvae_cell_type"].tolist()
    table = back.uns["diffvae"]["annotation"]
    for column in adata.uns["diffvae"]["annotation"]:
        assert table[column].astype(str).tolist() == table_of(adata).reset_index()[column].astype(str).tolist()
    assert back.uns["diffvae"]["annotation_params"]["markers"] == "dict"


def high_weight(genes):
    rows = [
        {"group": g, "ranking": "weights", "gene": gene, "direction": "up", "confirmed": True, "rank": i}
        for g, names in genes.items()
        for i, gene in enumerate(names)
    ]
    # What is down in the group, or found by another ranking, is no evidence for it.
    rows.append(rows[0] | {"gene": "g5", "direction": "down"})
    rows.append(rows[0] | {"gene": "g6", "ranking": "jacobian"})
    # Nor is what the cells themselves have less of there.
    rows += [rows[0] | {"gene": gene, "group": "1", "confirmed": False} for gene in MARKERS["B"]]
    return pd.DataFrame(rows)


def test_names_by_weights_agree_or_not():
    adata = make()
    genes = {"0": [*MARKERS["A"], "g1", "g2"], "1": ["g1", "g2", "g3"], "2": MARKERS["C"]}
    adata.uns["diffvae"] = {"high_weight_genes": high_weight(genes)}
    table = fast(adata)
    assert table["by_weights"].tolist() == ["A", "unassigned", "C", ""]
    assert table["agree"].tolist() == [True, pd.NA, False, pd.NA]
    assert table.loc["0", "by_weights_genes"] == "a1,a2,a3,a4"
    assert table.loc["0", "by_weights_q"] < 1e-6
    assert table["cell_type"].tolist() == ["A", "A", "B", "C"]
    sentence = "Names by decoder weights agree with names by expression in 1 of 2 clusters that have both"
    assert disagreement(table).startswith(sentence)
    assert disagreement(table[:2]) is None  # all agree
    assert disagreement(table[1:2]) is None  # none has both
    adata.uns["diffvae"] = {"high_weight_genes": high_weight({"other": MARKERS["A"]})}
    assert (fast(adata)["by_weights"] == "").all()


def test_one_cluster_is_left_unassigned_with_a_sentence():
    adata = make()
    adata.obs["diffvae_cluster"] = "0"
    with pytest.warns(UserWarning, match="fewer than two clusters"):
        fast(adata)
    assert (adata.obs["diffvae_cell_type"] == "unassigned").all()
    with pytest.warns(UserWarning, match="No cell type has 2 of its markers"):
        table = fast(make(), {"A": ["a1"]})
    assert table["reason"].tolist() == ["nothing to compare"] * 4


def test_noise_is_no_cluster():
    adata, without = make(), make()[:90].copy()
    adata.obs["diffvae_cluster"] = adata.obs["diffvae_cluster"].cat.rename_categories({"3": "noise"})
    table = fast(adata)
    pd.testing.assert_frame_equal(table.iloc[:3].astype({"agree": "boolean"}), fast(without))
    assert table.loc["noise", ["cell_type", "reason", "n_cells"]].tolist() == ["unassigned", "noise, no cluster", 30]
    assert (adata.obs["diffvae_cell_type"][90:] == "unassigned").all()


@pytest.mark.parametrize(
    ("change", "kwargs", "message"),
    [
        (lambda a: a.obs.drop(columns="diffvae_cluster", inplace=True), {}, "run diffvae.tl.cluster"),
        (lambda a: setattr(a, "X", a.X.ceil()), {}, "has only whole numbers, which are counts"),
        (lambda a: a.X.data.__setitem__(3, np.nan), {}, "has NaN or infinite values"),
        (lambda a: None, {"use_raw": True}, "adata.raw is None"),
        (lambda a: None, {"layer": "log"}, r"adata.layers\['log'\] is missing"),
        (lambda a: None, {"use_raw": True, "layer": "log"}, "give only one of them"),
        (lambda a: None, {"min_genes": 0}, "min_genes is 0"),
        (lambda a: None, {"max_q": 0.0}, "max_q is 0.0"),
        (lambda a: None, {"rng": -1}, "rng is -1"),
        (lambda a: None, {"markers": {"X": ["nowhere"]}}, "None of the 1 marker genes"),
        (lambda a: None, {"markers": "no-such-table"}, "neither a bundled marker table"),
    ],
)
def test_refusals_come_before_anything_is_written(change, kwargs, message):
    adata = make()
    change(adata)
    with pytest.raises(ValueError, match=message):
        fast(adata, **kwargs)
    assert "diffvae_cell_type" not in adata.obs
    assert "diffvae" not in adata.uns


def test_auto_finds_blood_in_the_bundled_set():
    adata = sc.datasets.pbmc68k_reduced()
    annotate(adata, groupby="bulk_labels", n_permutations=2000)
    assert adata.uns["diffvae"]["annotation_params"]["markers"] == "blood-human"
    tried = adata.uns["diffvae"]["annotation_tables"].set_index("markers")
    assert tried["evidence"].idxmax() == "blood-human"
    assert tried.loc["islet-mouse", "found"] == 0
    table = table_of(adata)
    assert table.loc["CD19+ B", "cell_type"] == "B cell / Plasma cell"
    plasma = adata[(adata.obs["bulk_labels"] == "CD19+ B") & (adata.obs["diffvae_cell_type"] == "Plasma cell")]
    assert 10 < plasma.n_obs < 50
    expressed = {g: float(plasma.raw[:, g].X.toarray().mean()) for g in ("MZB1", "MS4A1")}
    assert expressed["MZB1"] > 3 * expressed["MS4A1"]
    assert table.loc["CD56+ NK", "cell_type"] == "NK cell"
    assert table.loc["CD4+/CD25 T Reg", "cell_type"] == "T cell"
    assert table.loc["CD34+", "cell_type"] == "CD34+ progenitor"
    assert table.loc["Dendritic", "cell_type"].startswith("Dendritic cell / ")  # there are monocytes among them
    annotate(adata, groupby="bulk_labels", n_permutations=2000, split=False)
    whole = table_of(adata)["cell_type"]
    assert whole[["CD19+ B", "CD56+ NK", "Dendritic"]].tolist() == ["B cell", "NK cell", "Dendritic cell"]
    assert whole[["CD4+/CD25 T Reg", "CD34+"]].tolist() == ["T cell", "CD34+ progenitor"]


def test_auto_names_nothing_where_no_gene_is_known():
    adata = make()
    with pytest.warns(UserWarning, match="No bundled marker table has 10% of its genes"):
        annotate(adata, n_permutations=100)
    assert (adata.obs["diffvae_cell_type"] == "unassigned").all()
    assert adata.uns["diffvae"]["annotation_params"]["markers"] == ""
    assert adata.uns["diffvae"]["annotation_params"]["message"]


def test_auto_names_nothing_where_the_genes_are_there_but_not_the_tissue():
    adata = make()
    known = load_markers("blood-human")["gene"].drop_duplicates()
    adata.var_names = [*known, *(f"other{i}" for i in range(400 - len(known)))]
    adata = adata[:, np.random.default_rng(0).permutation(400)].copy()
    adata.X = np.random.default_rng(1).permutation(adata.X.toarray(), axis=0)
    with pytest.warns(UserWarning, match="No bundled marker table fits"):
        annotate(adata, n_permutations=1000)
    assert (adata.obs["diffvae_cell_type"] == "unassigned").all()


def read(name):
    path = DATA / f"{name}.h5ad"
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    adata = ad.read_h5ad(path)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


def test_pbmc3k_is_named_as_its_reference_says():
    adata = read("pbmc3k")
    annotate(adata, "blood-human", "cell_type", key_added="name")
    coarse = {"Naive CD4 T": "T cell", "Memory CD4 T": "T cell", "CD8 T": "T cell", "B": "B cell", "NK": "NK cell"}
    coarse |= {"CD14+ Mono": "CD14+ monocyte", "FCGR3A+ Mono": "FCGR3A+ monocyte", "DC": "Dendritic cell"}
    expected = adata.obs["cell_type"].astype(str).replace(coarse)
    names = adata.obs["name"].astype(str)
    assert ((names != expected) & (names != "unassigned") & ~names.str.contains(" / ")).mean() < 0.015
    assert (names == expected).mean() > 0.85  # 0.88: faint T cells are unassigned, CD8 cells T or NK
    annotate(adata, "blood-human", "cell_type", key_added="name", split=False)
    assert (adata.obs["name"].astype(str) == expected).mean() == 1.0


def test_myoblasts_are_of_no_bundled_tissue():
    adata = read("hsmm_myoblast")
    with pytest.warns(UserWarning, match="another tissue"):
        annotate(adata, "auto", "cell_type", key_added="name")
    assert (adata.obs["name"] == "unassigned").all()
