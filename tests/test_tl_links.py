import copy
import dataclasses
from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from _graph_data import linked, planted, train
from scipy import sparse
from scipy.sparse.csgraph import connected_components

import diffvae as dv
from diffvae import tl
from diffvae.pp import DataError

WRITTEN = {"diffvae_links", "diffvae_called_links"}


@cache
def model():
    return train(max_epochs=40)


@pytest.fixture(scope="module")
def found():
    """Cells with links, and the table; no test may change them."""
    adata = linked().copy()
    return adata, tl.links(adata, model())


def pairs_in(graph):
    """Return the linked pairs of cells of a symmetric matrix, as a set."""
    rows, columns = graph.nonzero()
    return {(i, j) for i, j in zip(rows.tolist(), columns.tolist(), strict=True) if i < j}


def numbers(adata, table):
    """Return the pairs of a table as a list of cell numbers, smaller number first."""
    one, other = (adata.obs_names.get_indexer(table[c]) for c in ("cell_1", "cell_2"))
    return [(int(i), int(j)) for i, j in zip(one, other, strict=True)]


def test_what_is_written_and_where(found):
    adata, table = found
    before = linked()
    assert set(adata.obsm) - set(before.obsm) == {"X_diffvae_graph", "X_diffvae_link"}
    assert set(adata.obsp) - set(before.obsp) == WRITTEN
    assert set(adata.uns) - set(before.uns) == {"diffvae_links"}
    assert set(adata.uns["diffvae"]) - set(before.uns["diffvae"]) == {"links"}
    assert adata.obs.columns.equals(before.obs.columns)
    assert (adata.obsm["X_diffvae_graph"] == model().get_latent_representation()).all()
    assert (adata.obsm["X_diffvae_link"] == model().get_link_representation()).all()
    stored = adata.uns["diffvae"]["links"]
    assert (stored["graph_key"], stored["top_k"]) == ("cell_graph", 15)
    assert stored["n_input"] == adata.obsp["cell_graph"].nnz // 2 == adata.uns["diffvae"]["cell_graph"]["n_edges"]
    assert (stored["n_called"], stored["n_new"]) == (len(table), table["new"].sum())
    curve = model().calibration
    assert (stored["threshold"], stored["precision"], stored["recall"]) == (
        curve.threshold,
        curve.precision,
        curve.recall,
    )
    assert stored["scheme"] == model().scheme
    last = model().history.iloc[-1]
    for name in ("validation_loss", "validation_auc", "validation_average_precision"):
        assert stored[name] == last[name]


def test_probabilities_are_symmetric_and_those_of_the_model(found):
    adata, _ = found
    top = adata.obsp["diffvae_links"]
    assert sparse.isspmatrix_csr(top)
    assert (top != top.T).nnz == 0
    assert top.diagonal().sum() == 0
    assert top.data.min() > 0
    assert top.data.max() <= 1
    pairs = np.array(sorted(pairs_in(top)))
    assert pytest.approx(model().predict_links(pairs), rel=1e-4) == top[pairs[:, 0], pairs[:, 1]].A1
    assert np.diff(top.indptr).min() >= 15  # its own 15, and those that chose it
    others = np.arange(1, adata.n_obs)
    probability = model().predict_links(np.column_stack([np.zeros_like(others), others]))
    assert set(others[np.argsort(-probability)[:15]].tolist()) <= set(top[0].indices.tolist())


def test_called_links_are_those_at_or_above_the_threshold(found):
    adata, table = found
    top, called = adata.obsp["diffvae_links"], adata.obsp["diffvae_called_links"]
    threshold = np.float32(model().calibration.threshold)
    assert pairs_in(called) == pairs_in(sparse.csr_matrix(top >= threshold))
    assert 0 < called.nnz < top.nnz
    assert set(called.data) == {1}
    assert (called != called.T).nnz == 0
    assert set(numbers(adata, table)) == pairs_in(called)
    assert len(table) == called.nnz // 2  # each pair once
    assert table["probability"].is_monotonic_decreasing
    assert table["probability"].min() >= threshold
    for (i, j), probability in zip(numbers(adata, table), table["probability"], strict=True):
        assert probability == top[i, j]
    given = pairs_in(adata.obsp["cell_graph"])
    assert table["new"].tolist() == [pair not in given for pair in numbers(adata, table)]
    assert 0 < table["new"].sum() < len(table)


def test_a_graph_in_one_direction_makes_no_link_new(found):
    adata = linked().copy()
    adata.obsp["cell_graph"] = sparse.tril(adata.obsp["cell_graph"], format="csr") * 0.3
    pd.testing.assert_frame_equal(tl.links(adata, model()), found[1])


@pytest.mark.parametrize("threshold", [0.3, 0.9999999])
def test_custom_threshold(found, tmp_path, threshold):
    adata = found[0].copy()
    table = tl.links(adata, model(), threshold=threshold)
    top = adata.obsp["diffvae_links"]
    assert (top != found[0].obsp["diffvae_links"]).nnz == 0  # only the calls depend on it
    assert len(table) == int((top.data >= threshold).sum()) // 2
    assert table.columns.tolist() == found[1].columns.tolist()
    assert adata.uns["diffvae"]["links"]["threshold"] == threshold
    assert adata.obsp["diffvae_called_links"].nnz == 2 * len(table)
    assert adata.uns["diffvae"]["links"]["n_called"] == len(table)
    # these were measured at another threshold
    assert np.isnan([adata.uns["diffvae"]["links"][k] for k in ("precision", "recall", "precision_unknown")]).all()
    adata.write_h5ad(tmp_path / "cells.h5ad")  # without any call, too


def test_top_k():
    adata = linked().copy()
    tl.links(adata, model(), 3)
    few = adata.obsp["diffvae_links"]
    assert 300 <= few.nnz <= 600
    assert adata.uns["diffvae_links"]["params"]["n_neighbors"] == 4
    tl.links(adata, model(), 1000)  # as many as there are
    assert adata.obsp["diffvae_links"].nnz == 100 * 99


def test_without_hidden_edges_the_user_names_the_threshold():
    blind = train(training={"validation_size": 0})
    adata = linked().copy()
    before = set(adata.obsp)
    with pytest.raises(
        ValueError, match=r"trained without hidden edges, .* pass threshold=0.5, for example, or train with"
    ):
        tl.links(adata, blind)
    assert set(adata.obsp) == before
    table = tl.links(adata, blind, threshold=0.5)
    assert table["probability"].min() >= 0.5
    stored = adata.uns["diffvae"]["links"]
    assert np.isnan(stored["precision"])
    assert np.isnan(stored["recall"])
    assert "validation_auc" not in stored
    i, j = numbers(adata, table)[0]
    assert table["probability"][0] == pytest.approx(blind.predict_links([[i, j]], calibrated=False)[0], rel=1e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"top_k": 0}, "top_k is 0; it must be a whole number of 1 or more"),
        ({"threshold": 0.0}, "threshold is 0.0; it must be None or a number above 0 and below 1"),
        ({"threshold": 1.5}, "threshold is 1.5"),
    ],
)
def test_bad_arguments_write_nothing(options, sentence):
    adata = linked().copy()
    with pytest.raises(ValueError, match=sentence):
        tl.links(adata, model(), **options)
    assert not WRITTEN & set(adata.obsp)


def test_cells_without_a_graph_and_models_without_training_are_refused():
    adata = linked().copy()
    with pytest.raises(RuntimeError, match="is not trained; call train"):
        tl.links(adata, dv.model.GraphDiffVAE())
    del adata.obsp["cell_graph"]
    with pytest.raises(DataError, match=r"obsp\['cell_graph'\] is missing; run diffvae.pp.cell_graph"):
        tl.links(adata, model())
    assert set(adata.obsm) == set(linked().obsm)


def test_everything_comes_back_from_a_file(found, tmp_path):
    adata, _ = found
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    for key in WRITTEN:
        assert (again.obsp[key] != adata.obsp[key]).nnz == 0
        assert again.obsp[key].dtype == adata.obsp[key].dtype
    for key in ("X_diffvae_graph", "X_diffvae_link"):
        assert (again.obsm[key] == adata.obsm[key]).all()
    assert again.uns["diffvae_links"] == adata.uns["diffvae_links"]
    assert again.uns["diffvae"]["links"] == adata.uns["diffvae"]["links"]


def test_scanpy_takes_the_links_as_neighbours():
    adata = linked().copy()
    tl.links(adata, model(), 30)
    assert connected_components(adata.obsp["diffvae_links"], return_labels=False) == 1
    adata.obs["group"] = pd.Categorical(np.where(np.arange(100) < 50, "a", "b"))
    sc.tl.paga(adata, groups="group", neighbors_key="diffvae_links")
    connectivity = adata.uns["paga"]["connectivities"].toarray()
    assert connectivity.shape == (2, 2)
    assert np.isfinite(connectivity).all()
    assert connectivity[0, 1] > 0
    sc.tl.diffmap(adata, n_comps=5, neighbors_key="diffvae_links")
    assert adata.obsm["X_diffmap"].shape == (100, 5)
    assert np.isfinite(adata.obsm["X_diffmap"]).all()
    adata.uns["iroot"] = 3
    sc.tl.dpt(adata, n_dcs=5, neighbors_key="diffvae_links")
    time = adata.obs["dpt_pseudotime"]
    assert np.isfinite(time).all()
    assert (time.iloc[3], time.max()) == (0, 1)


def test_a_loaded_model_and_new_cells(found, tmp_path):
    model().save(tmp_path / "model")
    loaded = dv.model.load(tmp_path / "model")
    adata = linked().copy()
    pd.testing.assert_frame_equal(tl.links(adata, loaded), found[1])
    assert adata.uns["diffvae"]["links"].keys() == found[0].uns["diffvae"]["links"].keys()
    fewer = adata[::2].copy()
    dv.pp.cell_graph(fewer, k=3, progress=False)
    table = tl.links(fewer, loaded)
    assert fewer.obsp["diffvae_links"].shape == (50, 50)
    given = pairs_in(fewer.obsp["cell_graph"])
    assert table["new"].tolist() == [pair not in given for pair in numbers(fewer, table)]
    assert fewer.uns["diffvae"]["links"]["n_input"] == len(given)


def test_the_order_of_cells_is_of_no_account(found):
    adata, table = found
    order = np.random.default_rng(0).permutation(100)
    other = linked()[order].copy()
    again = tl.links(other, model())
    top = adata.obsp["diffvae_links"][order][:, order]
    assert abs(other.obsp["diffvae_links"] - top).max() < 1e-5
    a, b = ({frozenset(row) for row in t[["cell_1", "cell_2"]].values.tolist()} for t in (table, again))
    assert len(a ^ b) <= 1  # a link at the threshold itself, perhaps


def test_planted_types_are_linked():
    adata = planted().copy()
    table = tl.links(adata, train(adata, n_latent=12, hidden=32, max_epochs=60))
    types = np.arange(400) % 10
    same = np.array([types[i] == types[j] for i, j in numbers(adata, table)])
    assert len(table) > 100
    assert same.mean() > 0.95
    assert same[table["new"]].mean() > 0.95


def test_called_links_do_not_crowd_on_popular_cells():
    adata = planted().copy()
    rng = np.random.default_rng(0)
    graph = adata.obsp["cell_graph"].tolil()
    for hub in range(4):  # the top hundredth: each is linked with most cells, whatever their type
        others = rng.choice(np.arange(4, 400), 300, replace=False)
        graph[hub, others] = graph[others, hub] = 1
    adata.obsp["cell_graph"] = sparse.csr_matrix(graph)
    share = {}
    for decoder, n_components in (("graphite", 0), ("direction", 0), ("direction", 128)):
        hyper = {"n_latent": 12, "hidden": 32, "max_epochs": 60, "decoder": decoder, "n_components": n_components}
        tl.links(adata, train(adata, **hyper))
        share[decoder, n_components] = adata.uns["diffvae"]["links"]["hub_share"]
    assert share["direction", 128] < 0.1
    assert share["direction", 0] < 0.1
    assert share["graphite", 0] > 0.2


def test_a_model_worse_than_chance_is_refused_and_stale_calls_go():
    adata, good = linked().copy(), model()
    bad = dataclasses.replace(good.calibration, slope=-1.0)
    adata.obs["diffvae_commitment"] = "biased: x"
    adata.uns["diffvae"] = {**adata.uns["diffvae"], "commitment": 1, "link_table": 2}
    tl.links(adata, good)
    assert "diffvae_commitment" not in adata.obs
    assert not {"commitment", "link_table"} & set(adata.uns["diffvae"])
    broken = copy.copy(good)
    broken.calibration = bad
    with pytest.raises(DataError, match="no better than chance"):
        tl.links(adata, broken)
    adata.obs_names = ["same"] * adata.n_obs
    with pytest.raises(DataError, match="Cell names occur more than once: 'same'"):
        tl.links(adata, good)
