"""Graph-DiffVAE with other networks, in batches of parts, on awkward graphs, and with arguments that are refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from _graph_data import TINY, linked, planted, train
from _model_data import N_CELLS, prepared
from scipy import sparse
from scipy.sparse.csgraph import connected_components

import diffvae as dv
from diffvae._core import graphs
from diffvae.model import GraphDiffVAE
from diffvae.model._base import NotTrainedError
from diffvae.model._config import GRAPH_PRESETS
from diffvae.model._graph_training import GraphObjective, PartedGraph
from diffvae.nn import normalized_adjacency
from diffvae.pp import DataError
from diffvae.train import RowSource


def graph():
    return graphs.undirected(linked().obsp["cell_graph"])


@pytest.mark.parametrize("preset", list(GRAPH_PRESETS))
def test_presets_train_and_can_be_overridden(preset):
    model = train(preset=preset, lr=1e-3, kl_weight=0.25)
    named = {**GRAPH_PRESETS[preset], **TINY, "lr": 1e-3, "kl_weight": 0.25}
    assert named.items() <= model.get_params().items()
    assert model.get_params()["preset"] == preset
    assert np.isfinite(model.get_link_representation()).all()
    assert GraphDiffVAE(**model.get_params()).config == model.config


@pytest.mark.parametrize("batch_size", [None, 32])
@pytest.mark.parametrize(
    "hyper",
    [
        {"conv": "gat"},
        {"conv": "sage"},
        {"decoder": "inner"},
        {"joint_weight": 0.5, "mmd_weight": 0.5},
        {"kl_warmup": 0.0},
    ],
    ids=str,
)
def test_other_networks_learn(hyper, batch_size, tmp_path):
    model = train(max_epochs=12 if batch_size is None else 3, training={"batch_size": batch_size}, **hyper)
    history = model.history
    if batch_size is None:  # losses of a few small batches are too noisy to fall in so few epochs
        assert history["train_loss"].iloc[-3:].mean() < history["train_loss"].iloc[:3].mean()
    assert np.isfinite(history.filter(like="train_")).all(axis=None)
    assert ("train_nll" in history) == ("joint_weight" in hyper)
    if hyper.get("decoder") == "inner":
        np.testing.assert_array_equal(model.get_link_representation(), model.get_latent_representation())
    model.save(tmp_path / "model")
    again = GraphDiffVAE.load(tmp_path / "model")
    np.testing.assert_array_equal(again.get_link_representation(linked()), model.get_link_representation())


def test_attention_is_a_matrix_of_the_links_whose_rows_sum_to_one():
    found = train(conv="gat", max_epochs=2).attention()
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found.toarray() > 0, graph().toarray() + np.eye(N_CELLS) > 0)
    with pytest.raises(ValueError, match="conv is 'gcn'; only conv='gat' has attention weights"):
        train(max_epochs=1).attention()


def test_attention_of_candidates_is_shared_with_the_neighbours():
    model = train(conv="gat", max_epochs=2)
    candidates = np.zeros((N_CELLS, N_CELLS))
    candidates[0, 50:53] = 1
    known, found = model.attention().toarray(), model.attention(candidates=candidates).toarray()
    np.testing.assert_array_equal(found > 0, (known > 0) | (candidates > 0) | (candidates.T > 0))
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    # a cell without candidates attends as before, one with them to its neighbours in the same proportions
    np.testing.assert_allclose(found[1], known[1], atol=1e-6)
    own = known[0] > 0
    share = found[0, own] / known[0, own]
    assert share.max() < 1
    with pytest.raises(ValueError, match=r"candidates has the shape \(2, 2\); the graph has \(100, 100\)"):
        model.attention(candidates=np.eye(2))


def test_called_links_have_the_attention_of_both_cells():
    adata, model = linked().copy(), train(conv="gat", max_epochs=60)
    called = dv.tl.links(adata, model, threshold=0.01)
    attention = model.attention(candidates=adata.obsp["diffvae_called_links"])
    one, other = (adata.obs_names.get_indexer(called[name]) for name in ("cell_1", "cell_2"))
    assert len(called)
    np.testing.assert_allclose(called["attention"], (attention[one, other] + attention[other, one]).A1 / 2, rtol=1e-5)


def test_mmd_draws_the_latent_space_towards_the_prior():
    weak, strong = (train(max_epochs=60, kl_weight=0.0, mmd_weight=w).history["train_mmd"] for w in (1e-6, 1.0))
    assert strong.tail(10).mean() < 0.5 * weak.tail(10).mean()


@pytest.mark.parametrize(
    "hyper", [{}, {"conv": "gat"}, {"conv": "sage"}, {"self_loops": False, "conv": "sage"}], ids=str
)
@pytest.mark.parametrize("batch_size", [None, 16])
def test_isolated_cells_and_a_graph_in_pieces(hyper, batch_size):
    adata = linked().copy()
    dense = graph().toarray()
    dense[:5], dense[:, :5] = 0, 0  # nobody's neighbours
    dense[5:50, 50:], dense[50:, 5:50] = 0, 0  # and two pieces
    adata.obsp["cell_graph"] = sparse.csr_matrix(dense)
    assert connected_components(adata.obsp["cell_graph"])[0] >= 7
    model = train(adata, max_epochs=3, training={"batch_size": batch_size}, **hyper)
    assert np.isfinite(model.get_link_representation()).all()
    assert ((model.predict_links([[0, 1], [0, 60]]) >= 0) & (model.predict_links([[0, 1], [0, 60]]) <= 1)).all()


def parted(batch_size, seed=0):
    return PartedGraph(
        RowSource(linked().layers["unit"]),
        graph(),
        normalized_adjacency,
        batch_size=batch_size,
        seed=seed,
    )


def test_parts_are_all_cells_and_an_epoch_is_every_cell_once():
    batches = parted(24)
    assert sorted(np.concatenate(batches.parts)) == list(range(N_CELLS))
    assert max(map(len, batches.parts)) - min(map(len, batches.parts)) <= 1
    rng = np.random.default_rng(0)
    x, numbers = linked().layers["unit"], {}
    dense = x.toarray() if sparse.issparse(x) else np.asarray(x)
    for i, row in enumerate(dense.astype(np.float32)):
        numbers[row.tobytes()] = i
    assert len(numbers) == N_CELLS
    epochs = [[[numbers[r.tobytes()] for r in b.x.numpy()] for b in batches.epoch(rng)] for _ in range(2)]
    for epoch in epochs:
        assert sorted(number for batch in epoch for number in batch) == list(range(N_CELLS))
    assert epochs[0] != epochs[1]


def test_batches_weigh_as_documented():
    batches, truth = parted(24), graph().toarray()
    q = len(batches.parts)
    assert (q, batches.per_batch) == (17, 4)
    rng, again = (np.random.default_rng(5) for _ in range(2))
    dealt = np.array_split(again.permutation(q), 4)
    for batch, chosen in zip(batches.epoch(rng), dealt, strict=True):
        p, sizes = len(chosen), [len(batches.parts[c]) for c in chosen]
        rows = np.concatenate([batches.parts[c] for c in chosen])
        sampling = batch.sampling
        assert (sampling.n_cells, sampling.n_edges, list(sampling.parts)) == (N_CELLS, graph().nnz // 2, sizes)
        assert sampling.within == pytest.approx(q / p)
        assert sampling.between == pytest.approx(q * (q - 1) / (p * (p - 1)))
        carried = normalized_adjacency(truth[np.ix_(rows, rows)]).toarray()  # of the links within the batch
        np.testing.assert_allclose(batch.adjacency.matrix.to_dense().numpy(), carried, rtol=1e-5)
        found = np.zeros((len(rows), len(rows)))
        found[tuple(batch.edges.edges.numpy().T)] += 1
        np.testing.assert_array_equal(found + found.T, truth[np.ix_(rows, rows)])  # each once, one way round


@pytest.mark.parametrize("batch_size", [8, 9, 15, 32, 50, 70, 99])
def test_no_batch_is_a_single_part_and_parts_depend_on_the_seed_alone(batch_size):
    batches = parted(batch_size)
    for batch in batches.epoch(np.random.default_rng(0)):
        assert len(batch.sampling.parts) >= 2
        assert len(batch.x) <= 1.5 * batch_size
    assert all((a == b).all() for a, b in zip(batches.parts, parted(batch_size).parts, strict=True))


def test_training_in_batches_learns_and_says_so():
    model = train(planted(), max_epochs=30, lr=2e-3, training={"batch_size": 160})
    assert model.scheme.startswith("batches of about 160 cells, 4 of 10 parts of the graph, with all pairs among them")
    history = model.history
    assert history["train_loss"].iloc[-5:].mean() < 0.9 * history["train_loss"].iloc[:5].mean()
    assert history["validation_auc"].iloc[-1] > 0.8
    one, again = (train(planted(), max_epochs=2, training={"batch_size": 160}) for _ in range(2))
    np.testing.assert_array_equal(one.get_link_representation(), again.get_link_representation())


@pytest.mark.parametrize("n_edges", [1, 4])
def test_too_few_edges_are_refused_before_the_training(n_edges):
    adata = linked().copy()
    ends = np.arange(n_edges)
    adata.obsp["cell_graph"] = sparse.csr_matrix((np.ones(n_edges), (ends, ends + 1)), shape=(N_CELLS, N_CELLS))
    with pytest.raises(DataError, match=rf"has {n_edges} edges; a share of 0.1 leaves 0 .* Pass validation_size=0"):
        train(adata)
    assert len(train(adata, max_epochs=2, training={"validation_size": 0}).history) == 2


def test_a_graph_without_edges_and_one_that_is_missing_are_refused():
    adata = linked().copy()
    adata.obsp["none"] = sparse.csr_matrix((N_CELLS, N_CELLS))
    with pytest.raises(DataError, match=r"adata\.obsp\['none'\] has no edge between two cells"):
        train(adata, training={"graph_key": "none"})
    with pytest.raises(DataError, match=r"run diffvae\.pp\.cell_graph\(adata\) first"):
        train(prepared())
    adata.X = np.asarray(adata.layers["unit"]) * 10
    with pytest.raises(DataError, match=r"the Bernoulli likelihood needs \[0, 1\]"):
        train(adata, joint_weight=1.0, training={"layer": None})


@pytest.mark.parametrize(
    ("hyper", "message"),
    [
        ({"preset": "best"}, "preset is 'best'"),
        ({"conv": "gin"}, "conv is 'gin'"),
        ({"decoder": "mlp"}, "decoder is 'mlp'"),
        ({"link_loss": "hinge"}, "link_loss is 'hinge'"),
        ({"n_latent": 0}, "n_latent is 0; it must be a whole number of 1 or more"),
        ({"hidden": 0}, "hidden is 0"),
        ({"max_epochs": 0}, "max_epochs is 0"),
        ({"conv": "gat", "hidden": 6}, "hidden is 6; with conv='gat' it must be a multiple of its 4 heads"),
        ({"kl_weight": -1.0}, r"kl_weight is -1\.0; it must be a number of at least 0"),
        ({"joint_weight": float("nan")}, "joint_weight is nan"),
        ({"kl_warmup": 1.5}, r"kl_warmup is 1\.5; it must be a number of at least 0 and at most 1"),
        ({"positive_weight": 0.0}, r"positive_weight is 0\.0; it must be None or a number above 0"),
        ({"dropout": 1.0}, r"dropout is 1\.0; it must be"),
        ({"lr": 0.0}, r"lr is 0\.0; it must be a number above 0"),
    ],
    ids=str,
)
def test_bad_hyper_parameters_are_refused_with_a_sentence(hyper, message):
    with pytest.raises(ValueError, match=message):
        GraphDiffVAE(**hyper)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"max_epochs": 0}, "max_epochs is 0; it must be None or a whole number"),
        ({"patience": 0}, "patience is 0"),
        ({"validate_every": 0}, "validate_every is 0"),
        ({"batch_size": 7}, "batch_size is 7; it must be None or a whole number of 8 or more"),
        ({"lr": -1.0}, r"lr is -1\.0"),
        ({"validation_size": 1.0}, r"validation_size is 1\.0; it must be a number of at least 0 and below 1"),
        ({"validation_size": -0.1}, r"validation_size is -0\.1"),
    ],
    ids=str,
)
def test_bad_arguments_of_train_are_refused_with_a_sentence(training, message):
    with pytest.raises(ValueError, match=message):
        train(training=training)


def test_untrained_it_says_so():
    model = GraphDiffVAE()
    assert repr(model).endswith("not trained)")
    for ask in (model.get_latent_representation, model.predict_top_links, lambda: model.module, lambda: model.history):
        with pytest.raises(NotTrainedError, match="This GraphDiffVAE is not trained"):
            ask()
    with pytest.raises(ValueError, match="rng is -1"):
        train(rng=-1)


def test_joint_model_explains_expression_from_the_same_latent():
    joint = train(max_epochs=60, lr=3e-3, joint_weight=10.0)
    x = np.asarray(linked().layers["unit"])
    found = joint.reconstruct()
    assert found.shape == linked().shape
    assert ((found > 0) & (found < 1)).all()
    assert np.mean((found - x) ** 2) < np.mean((x.mean(0) - x) ** 2)  # better than each gene's mean
    with pytest.raises(ValueError, match="joint_weight is 0, so the model has no expression decoder"):
        train(max_epochs=1).reconstruct()


@pytest.mark.parametrize("training", [{}, {"early_stopping": True}, {"batch_size": 32}], ids=str)
def test_resumed_equals_uninterrupted_bit_for_bit(monkeypatch, tmp_path, training):
    whole = train(max_epochs=6, training=training)
    saved = {"checkpoint": tmp_path / "kept", "checkpoint_every": 1}
    objective, weights, stop = GraphObjective.__call__, [], True

    def observed(self, module, batch, generator, *, warmup):
        weights.append(warmup)
        if stop and warmup == 1:  # in the third epoch of six
            raise KeyboardInterrupt
        return objective(self, module, batch, generator, warmup=warmup)

    monkeypatch.setattr(GraphObjective, "__call__", observed)
    with pytest.raises(KeyboardInterrupt):
        train(max_epochs=6, training=training | saved)
    assert min(weights) == pytest.approx(1 / 3)
    weights, stop = [], False
    again = train(max_epochs=6, training=training | saved | {"resume": True})
    assert min(weights) == 1  # it goes on with the third
    pd.testing.assert_frame_equal(again.history, whole.history)
    for a, b in zip(again.module.parameters(), whole.module.parameters(), strict=True):
        assert torch.equal(a, b)
