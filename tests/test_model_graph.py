"""Graph-DiffVAE on a hundred cells: what it learns, that it is what its equations say, and what it refuses."""

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from _graph_data import QUICK, linked, train
from _model_data import N_CELLS, N_GENES, prepared
from scipy import sparse
from scipy.special import expit
from threadpoolctl import threadpool_limits
from torch.nn import functional as F

from diffvae._core import graphs
from diffvae._core.components import principal_components
from diffvae.metrics import link_auc
from diffvae.model import GraphDiffVAE, load
from diffvae.model._base import NotTrainedError
from diffvae.model._config import GRAPH_PRESETS, graph_config
from diffvae.model._graph_training import (
    SIMILARITY_SHARE,
    GraphAutoencoder,
    GraphObjective,
    WholeGraph,
    encode,
    principal_axes,
)
from diffvae.nn import _link_loss, normalized_adjacency
from diffvae.nn._mlp import LOGVAR_RANGE
from diffvae.pp import DataError
from diffvae.train import RowSource, TrainingError

PAIRS = np.array([[0, 1], [5, 3], [99, 0]])


@cache
def trained():
    """Return a trained model that no test may change."""
    return train(max_epochs=60)


def test_it_learns_and_says_how():
    model = trained()
    history = model.history
    assert len(history) == 60
    terms = ["train_loss", "train_links", "train_kl"]
    watched = ["validation_loss", "validation_auc", "validation_average_precision"]
    assert list(history.columns) == terms + watched
    assert history["train_loss"].iloc[-5:].mean() < 0.9 * history["train_loss"].iloc[:5].mean()
    assert history["validation_auc"].iloc[-1] > 0.6
    seen = history.index[history["validation_loss"].notna()]
    assert list(seen) == [1, *range(4, 61, 4)]
    assert model.scheme == "all 4,950 pairs of cells in every step"
    assert str(model) == "GraphDiffVAE(n_latent=4, hidden=16, conv='gcn', decoder='direction'; trained on 100 cells)"
    assert model.get_latent_representation().shape == (N_CELLS, 4)
    assert model.get_link_representation().shape == (N_CELLS, 4 + N_GENES)
    assert not model.module.training


def test_expression_and_graph_are_left_as_they_were():
    adata = linked().copy()
    train(adata)
    assert (adata.obsp["cell_graph"] != linked().obsp["cell_graph"]).nnz == 0
    np.testing.assert_array_equal(adata.layers["unit"], linked().layers["unit"])


@pytest.mark.parametrize("hyper", [{}, {"dropout": 0.3}, {"conv": "gat", "dropout": 0.3}])
def test_same_seed_same_model_other_seed_another(hyper):
    torch.manual_seed(1)
    first = train(max_epochs=3, **hyper)
    torch.manual_seed(2)  # torch's own generator takes no part
    second, other = train(max_epochs=3, **hyper), train(max_epochs=3, rng=1, **hyper)
    np.testing.assert_array_equal(first.get_link_representation(), second.get_link_representation())
    pd.testing.assert_frame_equal(first.history, second.history)
    assert first.calibration == second.calibration
    assert not np.allclose(first.get_link_representation(), other.get_link_representation())


def test_a_second_call_starts_anew():
    model = train(max_epochs=3)
    once = model.get_link_representation()
    np.testing.assert_array_equal(model.train(linked(), **QUICK).get_link_representation(), once)


def test_other_order_of_cells_and_genes_other_order_of_places():
    rng = np.random.default_rng(0)
    order, genes = rng.permutation(N_CELLS), rng.permutation(N_GENES)
    permuted = linked()[order, genes].copy()
    for places in (trained().get_latent_representation, trained().get_link_representation):
        np.testing.assert_allclose(places(permuted), places()[order], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        trained().predict_links(linked().obs_names.to_numpy()[PAIRS], permuted),
        trained().predict_links(PAIRS),
        rtol=1e-4,
    )


def test_the_graph_counts_undirected_and_unweighted():
    adata = linked().copy()
    adata.obsp["cell_graph"] = sparse.csr_matrix(3 * sparse.triu(adata.obsp["cell_graph"]) + 2 * sparse.eye(N_CELLS))
    np.testing.assert_array_equal(
        train(adata, max_epochs=2).get_link_representation(), train(max_epochs=2).get_link_representation()
    )


def dense_loss(module, x, a, truth, eps, config):
    """Eqs 14-22 as a textbook writes them, with N x N matrices."""

    def gcn(layer, h):
        return a @ h @ layer.linear.weight.T + layer.bias

    mu, logvar = gcn(module.encoder.heads, F.relu(gcn(module.encoder.first, x))).chunk(2, dim=1)
    logvar = logvar.clamp(*LOGVAR_RANGE)
    z = mu + eps * (logvar / 2).exp()
    w = torch.cat([module.decoder.first.linear.weight, module.decoder.expression.weight], dim=1)
    h = F.relu(a @ torch.cat([z, x], 1) @ w.T + module.decoder.first.bias)
    places = (z + gcn(module.decoder.last, h)) / 2
    i, j = torch.triu_indices(len(x), len(x), offset=1)
    s, link = (places @ places.T)[i, j], truth[i, j]
    if config.link_loss == "categorical":
        links = torch.sigmoid(s).sum().log() - F.logsigmoid(s[link]).mean()
    else:
        weight = (~link).sum() / link.sum() if config.positive_weight is None else config.positive_weight
        total = weight * F.logsigmoid(s[link]).sum() + F.logsigmoid(-s[~link]).sum()
        links = -total / (weight * link.sum() + (~link).sum())
    kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum() / len(x)
    loss = links + config.kl_weight * kl / len(x)
    if config.joint_weight:
        q = torch.sigmoid(module.expression(z))
        nll = -(x * q.log() + (1 - x) * (1 - q).log()).sum() / len(x)
        loss = loss + config.joint_weight * nll / x.shape[1]
    return loss


@pytest.mark.parametrize("preset", list(GRAPH_PRESETS))
@pytest.mark.parametrize("joint_weight", [0.0, 0.5])
def test_the_objective_in_blocks_is_the_dense_formula(monkeypatch, preset, joint_weight):
    monkeypatch.setattr(_link_loss, "BLOCK", 24)
    config = graph_config(preset, {"n_latent": 4, "hidden": 16, "joint_weight": joint_weight})
    torch.manual_seed(0)
    module = GraphAutoencoder(N_GENES, config)
    graph = graphs.undirected(linked().obsp["cell_graph"])
    adjacency = normalized_adjacency(graph, self_loops=config.self_loops, normalize=config.normalize)
    (batch,) = WholeGraph(RowSource(0.1 * linked().layers["unit"]), adjacency, graphs.edges_of(graph)).epoch(None)
    GraphObjective(config)(module, batch, torch.Generator().manual_seed(3))["loss"].backward()
    found = {name: p.grad.clone() for name, p in module.named_parameters()}
    value = GraphObjective(config)(module, batch, torch.Generator().manual_seed(3))["loss"].detach()
    module.zero_grad()
    module.double()
    eps = torch.randn((N_CELLS, 4), generator=torch.Generator().manual_seed(3)).double()
    a, truth = torch.from_numpy(adjacency.toarray()).double(), torch.from_numpy(graph.toarray() == 1)
    expected = dense_loss(module, batch.x.double(), a, truth, eps, config)
    assert float(value) == pytest.approx(float(expected.detach()), rel=1e-4)
    expected.backward()
    for name, p in module.named_parameters():
        assert (found[name] - p.grad).norm() <= 1e-4 * p.grad.norm(), name


def test_the_loss_of_random_pairs_has_the_expectation_of_all_pairs():
    graph = graphs.undirected(linked().obsp["cell_graph"])
    source, adjacency, edges = RowSource(linked().layers["unit"]), normalized_adjacency(graph), graphs.edges_of(graph)
    torch.manual_seed(0)
    config = graph_config("default", {"n_latent": 4, "hidden": 16})
    module, rng = GraphAutoencoder(N_GENES, config), np.random.default_rng(0)

    def losses(paired, n):
        batches = WholeGraph(source, adjacency, edges, paired=paired)
        steps = [batch for _ in range(n) for batch in batches.epoch(rng)]
        with torch.no_grad():
            of = [GraphObjective(config)(module, b, torch.Generator().manual_seed(1))["links"].double() for b in steps]
        return torch.stack(of), str(batches)

    (exact,), _ = losses(N_CELLS, 1)
    sampled, scheme = losses(10, 300)
    assert scheme == f"in every step all links, and the pairs of {N_CELLS} cells with 10 random ones"
    assert abs(sampled.mean() - exact) < 4 * sampled.std() / 300**0.5
    assert sampled.std() > 0


def test_a_step_on_propagated_expression_is_close_to_one_that_propagates():
    graph = graphs.undirected(linked().obsp["cell_graph"])
    source, adjacency, edges = RowSource(linked().layers["unit"]), normalized_adjacency(graph), graphs.edges_of(graph)
    torch.manual_seed(0)
    config = graph_config("default", {"n_latent": 4, "hidden": 16})
    module, found = GraphAutoencoder(N_GENES, config), {}
    for precision in (None, torch.float32, torch.bfloat16):
        batches = WholeGraph(source, adjacency, edges, precision=precision)
        (batch,) = batches.epoch(None)
        module.zero_grad()
        loss = GraphObjective(config)(module, batch, torch.Generator().manual_seed(1))["loss"]
        loss.backward()
        gradients = [p.grad.clone() for p in module.parameters()]
        assert all(gradient.dtype == torch.float32 for gradient in gradients)
        found[precision] = loss.detach(), gradients, batches.encode(module)
    loss, gradients, placed = found[None]
    for precision, of_loss, of_gradient in ((torch.float32, 1e-6, 1e-5), (torch.bfloat16, 0.01, 0.03)):
        close, others, places = found[precision]
        assert float(close) == pytest.approx(float(loss), rel=of_loss)
        assert max(float((a - b).norm() / a.norm()) for a, b in zip(gradients, others, strict=True)) < of_gradient
        for a, b, c in zip(placed, places, encode(module, source, adjacency), strict=True):
            assert np.linalg.norm(a - b) < of_loss * np.linalg.norm(a)
            np.testing.assert_allclose(a, c, rtol=1e-5, atol=1e-5)


def test_networks_of_components_are_those_of_genes():
    matrix, adjacency = linked().layers["unit"], normalized_adjacency(linked().obsp["cell_graph"])
    axes, coordinates = principal_axes(matrix, adjacency, N_GENES, 0)
    np.testing.assert_allclose(coordinates, matrix @ axes.numpy(), atol=1e-5)
    np.testing.assert_allclose(axes.T @ axes, np.eye(N_GENES), atol=1e-5)
    strength = np.linalg.norm(adjacency @ matrix @ axes.numpy(), axis=0)
    singular = np.linalg.svd((adjacency @ matrix).toarray() if sparse.issparse(matrix) else adjacency @ matrix)[1]
    np.testing.assert_allclose(strength, singular, rtol=1e-3)
    for decoder in ("direction", "inner"):
        module = GraphAutoencoder(N_GENES, graph_config("default", {"n_latent": 4, "hidden": 16, "decoder": decoder}))
        weights = {name: value.clone() for name, value in module.state_dict().items()}
        of_genes = encode(module, RowSource(matrix), adjacency)
        module.change_inputs(axes)
        of_components = encode(module, RowSource(coordinates), adjacency)
        module.change_inputs(axes.T)
        for a, b in zip(of_genes, of_components, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        for name, value in module.state_dict().items():
            torch.testing.assert_close(value, weights[name], atol=1e-6, rtol=1e-5)


def test_components_depend_neither_on_threads_nor_on_the_kind_of_matrix():
    rng = np.random.default_rng(0)
    matrix = rng.gamma(1, 1, (6, 1000))[np.arange(1500) % 6] * rng.integers(2, size=(1500, 1000))
    adjacency = sparse.random_array((1500, 1500), density=0.01, rng=rng, format="csr", dtype=np.float32)
    found = []
    for n_threads, given in ((1, matrix), (2, matrix), (2, sparse.csr_matrix(matrix)), (2, matrix.astype(np.float32))):
        with threadpool_limits(n_threads):
            found.append(principal_axes(given, adjacency, 20, 0))
    for axes, coordinates in found[1:]:
        np.testing.assert_array_equal(axes, found[0][0])
        np.testing.assert_array_equal(coordinates, found[0][1])


@pytest.mark.parametrize("batch_size", [None, 32])
def test_trained_on_few_components_it_takes_genes(batch_size):
    model = train(n_components=3, training={"batch_size": batch_size})
    weights = [model.module.encoder.first.linear.weight, model.module.decoder.expression.weight]
    for weight in weights:
        assert weight.shape == (16, N_GENES)
        assert torch.linalg.matrix_rank(weight.detach(), rtol=1e-5) == 3
    assert torch.linalg.matrix_rank(train(n_components=0).module.encoder.first.linear.weight.detach()) == 16
    # what was validated with components is what the weights of genes give
    scores = model._held_out.scores(
        encode(model.module, RowSource(linked().layers["unit"]), model._adjacency(model._held_out.known))[1], None
    )
    assert scores["validation_loss"] == pytest.approx(model.history["validation_loss"].iloc[-1], rel=0.01)


def test_other_convolutions_and_the_joint_model_take_genes():
    for hyper in ({"conv": "gat"}, {"conv": "sage"}, {"joint_weight": 1.0}):
        assert GraphDiffVAE(**hyper).get_params()["n_components"] == 0
    assert GraphDiffVAE().get_params()["n_components"] == 128


def test_saved_and_loaded_it_is_the_same(tmp_path):
    model, adata = trained(), linked()
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert isinstance(again, GraphDiffVAE)
    assert (again.calibration, again.scheme, again.graph_key) == (model.calibration, model.scheme, model.graph_key)
    assert again.get_params() == model.get_params()
    pd.testing.assert_frame_equal(again.history, model.history)
    np.testing.assert_array_equal(again.predict_links(PAIRS, adata), model.predict_links(PAIRS, adata))
    np.testing.assert_array_equal(again.predict_links(PAIRS, adata), model.predict_links(PAIRS))
    np.testing.assert_array_equal(
        GraphDiffVAE.load(tmp_path / "model").get_latent_representation(adata), model.get_latent_representation()
    )
    with pytest.raises(NotTrainedError, match=r"was loaded from disk, .* and holds no cells; pass them as adata="):
        again.predict_links(PAIRS)


def test_links_are_scored_by_the_direction_and_popularity_is_the_length():
    direction, graphite = trained(), train(max_epochs=60, decoder="graphite")
    np.testing.assert_array_equal(direction.get_latent_representation(), graphite.get_latent_representation())
    unit, places = direction.get_link_representation(), graphite.get_link_representation()
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
    share, of_z = SIMILARITY_SHARE, unit[:, : places.shape[1]]
    np.testing.assert_allclose(of_z * direction.get_popularity()[:, None], (1 - share) ** 0.5 * places, atol=1e-5)
    # the rest are principal components of values on the scale before that to [0, 1]
    x = linked().layers["unit"] * (direction.features.maximum - direction.features.minimum)
    x = np.asarray(x - x.mean(axis=0), dtype=float)
    y = x @ np.linalg.svd(x)[2][:50].T
    cosine = (y @ y.T) / np.outer(*2 * [np.linalg.norm(y, axis=1)])
    rest = unit[:, places.shape[1] :].astype(float)
    np.testing.assert_allclose(rest @ rest.T, share * cosine, atol=1e-3)
    np.testing.assert_array_equal(direction.get_popularity(), graphite.get_popularity())
    assert {GRAPH_PRESETS[name].get("decoder") for name in ("paper", "code")} == {"graphite"}


def test_a_model_that_was_saved_before_predicts_as_before(tmp_path):
    adata, model = linked(), train(decoder="graphite")
    model.save(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    for name in ("knots", "levels", "reliability_error"):  # what version 0.1 did not have
        del config["state"]["calibration"][name]
    del config["params"]["n_components"]
    file.write_text(json.dumps(config))
    again = GraphDiffVAE.load(tmp_path / "model")
    assert again.get_params()["n_components"] == 0
    places, curve = model.get_link_representation(), model.calibration
    scores = (places[PAIRS[:, 0]].astype(float) * places[PAIRS[:, 1]]).sum(1)
    expected = expit(curve.slope * scores + curve.intercept)
    np.testing.assert_allclose(again.predict_links(PAIRS, adata), expected, rtol=1e-4)


def test_links_by_number_by_name_and_with_or_without_calibration():
    model, adata = trained(), linked()
    places = model.get_link_representation().astype(float)
    scores = (places[PAIRS[:, 0]] * places[PAIRS[:, 1]]).sum(1)
    np.testing.assert_allclose(model.predict_links(PAIRS, calibrated=False), expit(scores), rtol=1e-5)
    curve = model.calibration
    found = model.predict_links(PAIRS)
    np.testing.assert_allclose(found, curve(scores), rtol=1e-5)
    np.testing.assert_allclose(model.predict_links(PAIRS[:, ::-1].tolist()), found, rtol=1e-6)
    names = adata.obs_names.to_numpy()[PAIRS]
    for pairs in (names, pd.DataFrame(names), names.tolist(), pd.DataFrame(PAIRS)):
        np.testing.assert_allclose(model.predict_links(pairs, adata), found, rtol=1e-6)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([0, 1], r"pairs has shape \(2,\); give pairs x 2 cells"),
        ([[0, 1, 2]], r"pairs has shape \(1, 3\)"),
        ([[0, 100]], "pairs holds cells 0 to 100; the cells are 0 to 99"),
        ([[-1, 5]], "pairs holds cells -1 to 5"),
        ([["cell0_0", "cell0_1"]], "pairs holds names of cells; pass adata too"),
    ],
)
def test_bad_pairs_are_refused_with_a_sentence(pairs, message):
    with pytest.raises(ValueError, match=message):
        trained().predict_links(pairs)


def test_unknown_names_and_cells_without_a_graph_are_refused():
    with pytest.raises(DataError, match=r"1 cells of pairs are not in adata\.obs_names, for example 'nobody'"):
        trained().predict_links([["cell0_0", "nobody"]], linked())
    with pytest.raises(DataError, match=r"adata\.obsp\['cell_graph'\] is missing; run diffvae\.pp\.cell_graph"):
        trained().get_latent_representation(prepared())


def test_top_links_are_symmetric_and_those_of_predict_links():
    model = trained()
    top = model.predict_top_links(5)
    assert abs(top - top.T).max() == 0
    assert top.diagonal().max() == 0
    assert (np.diff(top.indptr) >= 5).all()
    pairs = np.stack(top.nonzero(), axis=1)
    np.testing.assert_allclose(np.asarray(top[pairs[:, 0], pairs[:, 1]]).ravel(), model.predict_links(pairs), rtol=1e-4)
    i, j = np.divmod(np.arange(N_CELLS**2), N_CELLS)
    every = model.predict_links(np.stack([i, j], axis=1)).reshape(N_CELLS, N_CELLS)
    np.fill_diagonal(every, -1)
    fifth = np.sort(every, axis=1)[:, -5]
    assert all(set(np.flatnonzero(every[c] > fifth[c] * (1 + 1e-4))) <= set(top[c].indices) for c in range(N_CELLS))
    assert model.predict_top_links(500).nnz == N_CELLS * (N_CELLS - 1)
    with pytest.raises(ValueError, match="k is 0"):
        model.predict_top_links(0)


def test_probabilities_are_shares_of_real_pairs():
    every = trained().predict_links(np.stack(np.triu_indices(N_CELLS, 1), axis=1))
    density = linked().obsp["cell_graph"].nnz / N_CELLS / (N_CELLS - 1)
    assert every.mean() < 3 * density < 0.5
    assert trained().calibration.n_held_out == round(0.1 * linked().obsp["cell_graph"].nnz / 2)


def test_nothing_held_out_nothing_calibrated():
    model = train(training={"validation_size": 0})
    assert list(model.history.columns) == ["train_loss", "train_links", "train_kl"]
    assert model.calibration is None
    assert model.predict_links(PAIRS, calibrated=False).shape == (3,)
    with pytest.raises(ValueError, match=r"not calibrated, because validation_size was 0 or .*; pass calibrated=False"):
        model.predict_links(PAIRS)


def test_early_stopping_goes_back_to_the_best_weights():
    model = train(max_epochs=200, lr=0.05, training={"early_stopping": True, "patience": 3})
    loss = model.history["validation_loss"]
    assert loss.notna().all()
    assert len(loss) == loss.idxmin() + 3 < 200


def test_divergence_is_said():
    with pytest.raises(TrainingError, match=r"the training diverged\. Lower the learning rate"):
        train(max_epochs=50, lr=1e4)


def test_baseline_is_the_similarity_that_made_the_edges():
    adata = linked()
    y = principal_components(adata.X, 0)
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    held = trained()._held_out
    expected = link_auc(*(graphs.inner_products(y, pairs) for pairs in (held.linked, held.unlinked)))
    assert trained().baseline_auc() == pytest.approx(expected, abs=0.01)
    assert trained().baseline_auc("pearson") != trained().baseline_auc()
