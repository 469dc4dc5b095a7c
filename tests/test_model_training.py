"""Training of the autoencoders: reproducible, without traces, and stopped where it must be."""

import _thread
import time

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from _model_data import MAKERS, N_CELLS, QUICK, TINY, counts, prepared, trained
from anndata import AnnData

import diffvae as dv
from diffvae import _keys
from diffvae.model import VAE, AutoEncoder, DiffVAE, _neural
from diffvae.model._objective import InfoVAEObjective
from diffvae.train import RowSource, TrainingError, fit

NEURAL = ("DiffVAE", "VAE", "AutoEncoder")


def weights(model):
    return model.module.state_dict()


def same(a, b):
    return all(torch.equal(v, b[k]) for k, v in a.items())


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3}, {"noise": "shared", "head": "relu_bn"}])
def test_same_seed_same_weights_and_other_seed_others(options):
    torch.manual_seed(1)  # the global state has no part in it
    first = DiffVAE(**TINY, **options).train(prepared(), rng=3, **QUICK)
    torch.manual_seed(2)
    again = DiffVAE(**TINY, **options).train(prepared(seed=9), **QUICK).train(prepared(), rng=3, **QUICK)  # anew
    assert same(weights(first), weights(again))
    pd.testing.assert_frame_equal(first.history, again.history)
    other = DiffVAE(**TINY, **options).train(prepared(), rng=4, **QUICK)
    assert not any(torch.equal(v, weights(other)[k]) for k, v in weights(first).items() if v.ndim == 2)


def test_a_generator_is_used_and_advanced():
    rng = np.random.default_rng(0)
    first = DiffVAE(**TINY).train(prepared(), rng=rng, **QUICK)
    second = DiffVAE(**TINY).train(prepared(), rng=rng, **QUICK)
    assert not same(weights(first), weights(second))
    again = DiffVAE(**TINY).train(prepared(), rng=np.random.default_rng(0), **QUICK)
    assert same(weights(first), weights(again))


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3}])
def test_training_leaves_no_trace_in_torch_and_numpy(options, monkeypatch):
    def refuse(seed):
        raise AssertionError("the generators of the GPUs were seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is the point
    threads = torch.get_num_threads()
    model = DiffVAE(**TINY, **options).train(prepared(), **QUICK)
    model.sample(3)
    model.diagnose()
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002 - the global state is the point
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    assert (torch.tensor([1e-39]) * 1).item() != 0  # denormals are not flushed here


@pytest.mark.parametrize("make", [sp.csr_matrix, sp.csc_matrix, sp.csr_array], ids=lambda make: make.__name__)
def test_sparse_layer_trains_as_the_dense_one(make):
    adata = prepared()
    adata.layers["unit"] = make(adata.layers["unit"])
    model = trained("DiffVAE")
    again = DiffVAE(**TINY).train(adata, **QUICK)
    assert same(weights(model), weights(again))
    pd.testing.assert_frame_equal(model.history, again.history)
    np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())


def test_streamed_rows_train_as_resident_ones():
    unit = prepared().layers["unit"]
    histories = []
    for matrix, limit in ((unit, 2**30), (sp.csr_matrix(unit), 2**30), (sp.csr_matrix(unit), 0)):
        module = DiffVAE(**TINY)._build(unit.shape[1], 0)
        source = RowSource(matrix, resident_limit=limit)
        rows = {"train_rows": np.arange(80), "validation_rows": np.arange(80, 100)}
        histories.append(fit(module, source, InfoVAEObjective(DiffVAE(**TINY).config), max_epochs=2, **rows))
    pd.testing.assert_frame_equal(histories[0], histories[1])
    pd.testing.assert_frame_equal(histories[0], histories[2])


@pytest.fixture
def rows_of_fit(monkeypatch):
    seen = {}

    def spy(*args, train_rows, validation_rows, **kwargs):
        seen.update(train=train_rows, validation=validation_rows)
        return fit(*args, train_rows=train_rows, validation_rows=validation_rows, **kwargs)

    monkeypatch.setattr(_neural, "fit", spy)
    return seen


def test_validation_is_the_split_of_prepare(rows_of_fit):
    adata = prepared()
    VAE(**TINY).train(adata, rng=7, **QUICK)  # another seed than that of the split
    held_out = np.flatnonzero(adata.obs[_keys.SPLIT] == "validation")
    np.testing.assert_array_equal(rows_of_fit["validation"], held_out)
    np.testing.assert_array_equal(np.union1d(rows_of_fit["train"], held_out), np.arange(N_CELLS))
    assert len(rows_of_fit["train"]) == N_CELLS - len(held_out) == 80


@pytest.mark.parametrize(("given", "n_held_out"), [(0.3, 30), (0.0, 0)])
def test_validation_size_that_is_given(rows_of_fit, given, n_held_out):
    adata = prepared()
    model = VAE(**TINY).train(adata, validation_size=given, **QUICK)
    assert len(rows_of_fit["validation"]) == n_held_out
    np.testing.assert_array_equal(np.sort(np.concatenate(list(rows_of_fit.values()))), np.arange(N_CELLS))
    assert ("validation_loss" in model.history) == (n_held_out > 0)


def test_a_fifth_is_held_out_where_there_is_no_split(rows_of_fit):
    adata = prepared()
    del adata.obs[_keys.SPLIT]
    VAE(**TINY).train(adata, **QUICK)
    first = rows_of_fit["validation"]
    assert len(first) == 20
    VAE(**TINY).train(adata, rng=1, **QUICK)
    assert set(first) != set(rows_of_fit["validation"])


def test_training_lowers_the_loss():
    for model in (DiffVAE(**TINY, linear_skip=False), VAE(**TINY), AutoEncoder(**TINY)):
        history = model.train(prepared(), **{**QUICK, "max_epochs": 40, "lr": 5e-3}).history
        for term in ("train_nll", "validation_nll"):
            assert history[term].iloc[-1] < 0.9 * history[term].iloc[0]


def test_training_lowers_the_loss_of_a_start_at_pca():
    adata = dv.datasets.pbmc68k_reduced()
    dv.pp.prepare(adata)
    history = DiffVAE().train(adata, max_epochs=10, progress=False).history
    for term in ("train_loss", "validation_loss"):
        assert history[term].iloc[-1] < 0.98 * history[term].iloc[0]


def test_history_is_the_loss_of_the_weights_that_the_model_has():
    model, unit = trained("AutoEncoder"), prepared().layers["unit"]
    held_out = (prepared().obs[_keys.SPLIT] == "validation").to_numpy()
    p = model.reconstruct().astype(float)
    nll = -(unit * np.log(p) + (1 - unit) * np.log(1 - p)).sum(1)
    assert model.history["validation_nll"].iloc[-1] == pytest.approx(nll[held_out].mean(), rel=1e-4)


def test_bfloat16_ends_near_float32():
    options = {**QUICK, "max_epochs": 20, "lr": 1e-2}
    a, b = (VAE(**TINY).train(prepared(), **{**options, "precision": p}).history for p in ("float32", "bfloat16"))
    assert (a["train_loss"] != b["train_loss"]).all()
    ends = [history["train_loss"].iloc[-5:].mean() for history in (a, b)]
    assert ends[1] == pytest.approx(ends[0], rel=0.01)
    assert abs(ends[1] - ends[0]) < 0.1 * (a["train_loss"].iloc[0] - ends[0])


def test_early_stopping_of_a_model():
    options = {**QUICK, "max_epochs": 300, "lr": 0.03, "batch_size": 10}
    model = AutoEncoder(**TINY).train(prepared(), early_stopping=True, patience=5, **options)
    losses = model.history["validation_loss"]
    assert len(losses) < 300
    assert losses.idxmin() == len(losses) - 5
    # the weights are those of the best epoch: train so far and no further
    best = AutoEncoder(**TINY).train(prepared(), **{**options, "max_epochs": int(losses.idxmin())})
    assert same(weights(model), weights(best))
    # a model that was made so stops by itself, unless told otherwise
    stopping = AutoEncoder(**TINY, early_stopping=True)
    assert stopping.train(prepared(), patience=5, **options).history.equals(model.history)
    longer = {**options, "max_epochs": len(losses) + 3}
    told = stopping.train(prepared(), patience=5, early_stopping=False, **longer)
    assert len(told.history) == len(losses) + 3


@pytest.mark.parametrize("n_cells", [60, 80])
def test_few_cells_are_not_stopped_on_the_plateau_before_the_first_dimension(n_cells):
    """The loss is level while only the bias of the decoder has been learnt: early stopping used to end there."""
    types, rng = np.arange(n_cells) % 4, np.random.default_rng(0)
    rates = rng.lognormal(0, 1, 232) * np.ones((n_cells, 1))
    for k in range(4):
        rates[:, 8 * k : 8 * k + 8] = np.where(types == k, 5.0, 0.05)[:, None]
    made = AnnData(rng.poisson(3000 * rates / rates.sum(1, keepdims=True)).astype("float32"))
    dv.pp.prepare(made)
    model = VAE().train(made, early_stopping=True, progress=False)
    assert model.diagnose().n_active > 0
    assert len(model.history) < 1000
    dv.tl.embed(made, model)
    distance = np.linalg.norm(made.obsm["X_diffvae"][:, None] - made.obsm["X_diffvae"], axis=2)
    nearest = np.argsort(distance, axis=1)[:, 1:6]
    assert (types[nearest] == types[:, None]).mean() > 0.98


@pytest.mark.parametrize("name", NEURAL)
def test_divergence_is_explained_and_leaves_the_earlier_weights(name):
    sentence = (
        r"At epoch \d+ \w+ \w+ is (nan|inf|\d\S*): the training diverged\. Lower the learning rate \(it is 1e\+06\)"
    )
    model, diverging = MAKERS[name](), {**QUICK, "max_epochs": 20, "lr": 1e6}
    with pytest.raises(TrainingError, match=sentence):
        model.train(prepared(), **diverging)
    assert not model.is_trained
    z = model.train(prepared(), **QUICK).get_latent_representation()
    with pytest.raises(TrainingError):
        model.train(prepared(seed=9), **diverging)
    np.testing.assert_array_equal(model.get_latent_representation(), z)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_errors_inside_the_training_thread_reach_the_caller(error, monkeypatch):
    def fail(*args):
        raise error

    monkeypatch.setattr(InfoVAEObjective, "__call__", fail)
    model = DiffVAE(**TINY)
    with pytest.raises(type(error)) as caught:
        model.train(prepared(), **QUICK)
    assert caught.value is error
    assert not model.is_trained


def test_interrupt_from_the_keyboard_ends_the_training(monkeypatch):
    calls, original = [], InfoVAEObjective.__call__

    def interrupt(*args):
        calls.append(1)
        if len(calls) == 2:
            _thread.interrupt_main()
            time.sleep(0.5)
        return original(*args)

    monkeypatch.setattr(InfoVAEObjective, "__call__", interrupt)
    model = DiffVAE(**TINY)
    with pytest.raises(KeyboardInterrupt):
        model.train(prepared(), **{**QUICK, "max_epochs": 300})
    assert len(calls) < 10
    assert not model.is_trained


def test_odd_number_of_cells_in_pairs_trains():
    adata = prepared()[:61].copy()
    model = DiffVAE(**TINY).train(adata, validation_size=0.0, **{**QUICK, "max_epochs": 1, "batch_size": 2})
    assert np.isfinite(model.history.to_numpy()).all()


def test_gaussian_likelihood_starts_at_each_genes_own_gaussian():
    """Adam's steps are as long as the learning rate: from sigma = 1 it would not reach the data's within a training."""
    adata = prepared()
    adata.layers["odd"] = adata.layers["unit"] * 0.1 + 5.0
    model = AutoEncoder(**TINY, likelihood="gaussian").train(adata, layer="odd", **{**QUICK, "lr": 1e-6})
    x = adata.layers["odd"][(adata.obs[_keys.SPLIT] == "train").to_numpy()].astype(float)
    np.testing.assert_allclose(model.module.logvar_x.detach(), np.log(x.var(0)), atol=0.01)
    independent = 0.5 * (np.log(2 * np.pi * x.var(0)) + 1).sum()  # entropy of independent Gaussians
    assert model.history["train_nll"].iloc[0] == pytest.approx(independent, rel=0.1)


def test_gene_that_never_varies_does_not_break_the_gaussian_likelihood():
    adata = prepared()
    adata.layers["unit"][:, 4] = 0.0
    for matrix in (adata.layers["unit"], sp.csr_matrix(adata.layers["unit"])):
        adata.layers["unit"] = matrix
        model = VAE(**TINY, likelihood="gaussian").train(adata, **QUICK)
        assert np.isfinite(model.history.to_numpy()).all()


def test_fingerprint_tells_one_training_matrix_from_another():
    a, b = prepared(), prepared()
    b.layers["unit"][0, 0] += 1e-3
    prints = [VAE(**TINY).train(x, **{**QUICK, "max_epochs": 1}).features.fingerprint for x in (a, a, b)]
    assert prints[0] == prints[1] != prints[2]
    assert len(prints[0]) == 16


def test_raw_counts_are_refused_before_anything_is_built():
    adata = counts()
    adata.layers["unit"] = adata.X
    with pytest.raises(ValueError, match=r"holds values from 0 to .*, but the Bernoulli likelihood needs \[0, 1\]"):
        DiffVAE(**TINY).train(adata, **QUICK)


def test_divergence_that_stays_finite():
    with pytest.raises(TrainingError, match=r"train loss is \d\S*: the training diverged"):
        VAE(**TINY).train(prepared(), **{**QUICK, "max_epochs": 20, "lr": 100.0})


def test_a_watcher_sees_the_history_and_what_it_raises_leaves_the_model_as_it_was():
    rows = []
    model = DiffVAE(**TINY).train(prepared(), on_epoch=lambda epoch: rows.append(epoch.record), **QUICK)
    assert pd.DataFrame(rows).to_numpy().tolist() == model.history.to_numpy().tolist()
    before = {name: value.clone() for name, value in weights(model).items()}

    def stop(epoch):
        raise StopIteration

    with pytest.raises(StopIteration):
        model.train(prepared(), rng=5, on_epoch=stop, **QUICK)
    assert same(weights(model), before)
    assert len(model.history) == len(rows)
