"""The noise of single cells: counts read from logs, tables per gene, factors, and cells on disk."""

import tracemalloc

import numpy as np
import pytest
from _model_data import QUICK, TINY, prepared, trained

import diffvae as dv
from diffvae.model import DiffVAE, _noise
from diffvae.model._noise import Noise, counts_of


def test_counts_and_depth_come_back_from_logs():
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.8, (60, 80))
    counts[0] *= 3  # no value of 1
    counts[0, :2] = [5, 7]
    counts[1] = 0
    size = rng.uniform(0.2, 4, 60)
    found, depth = counts_of(np.log1p(counts / size[:, None]).astype(np.float32))
    np.testing.assert_array_equal(found, counts)
    others = np.arange(60) != 1
    np.testing.assert_allclose(depth[others], size[others], rtol=1e-4)
    assert depth[1] > 0  # a cell without counts gets a depth of others


@pytest.mark.parametrize("x", [np.random.default_rng(0).random((9, 50)), -np.ones((9, 50)), np.zeros((9, 50))])
def test_other_values_are_not_taken_for_counts(x):
    assert counts_of(x) is None


def test_values_follow_the_decoded_value_and_genes_share_what_cells_share():
    rng = np.random.default_rng(0)
    n, n_genes = 3000, 30
    expected, depth = rng.uniform(0, 2, (n, n_genes)).astype(np.float32), rng.standard_normal((n, 1))
    x = np.maximum(expected + 0.7 * depth + 0.5 * rng.standard_normal((n, n_genes)), 0).astype(np.float32)
    z = np.zeros((n, 2), np.float32)
    noise = Noise.fit(x, expected, z, z, None, rng)
    assert noise.loadings.shape[1] == 1
    drawn_z, factors, size = noise.draw(n, rng)
    assert size is None
    assert (drawn_z == 0).all()
    drawn, counts = noise.values(expected, factors, size, None, rng)
    assert counts is None
    for low, high in ((0, 0.4), (1.6, 2)):
        part = (expected > low) & (expected < high)
        assert (drawn[part] == 0).mean() == pytest.approx((x[part] == 0).mean(), abs=0.02)
        assert drawn[part].mean() == pytest.approx(x[part].mean(), abs=0.05)
        assert drawn[part].std() == pytest.approx(x[part].std(), rel=0.1)  # of eight bins
    # independent genes would have a thirtieth of the variance of a gene in the mean over genes
    assert drawn.mean(axis=1).std() == pytest.approx(x.mean(axis=1).std(), rel=0.15)


def test_cells_on_disk_leave_their_noise_in_the_model(tmp_path):
    file = tmp_path / "cells.h5ad"
    prepared().write_h5ad(file)
    model = DiffVAE(**TINY).train(file, **QUICK)
    file.unlink()
    model.save(tmp_path / "model")
    cells = dv.model.load(tmp_path / "model").sample(2000)
    in_memory = trained("DiffVAE").sample(2000)
    np.testing.assert_allclose((cells.X == 0).mean(axis=0), (in_memory.X == 0).mean(axis=0), atol=0.08)


def test_the_noise_of_a_second_training_is_that_of_its_cells():
    model = DiffVAE(**TINY).train(prepared(), **QUICK)
    model.sample(2)
    other = prepared()
    other.layers["unit"] = 0.5 * other.layers["unit"]
    assert model.train(other, **QUICK).sample(200).layers["unit"].max() <= 0.5 + 1e-6


def test_held_out_cells_leave_no_trace():
    adata = prepared()
    held_out = (adata.obs["diffvae_split"] == "validation").to_numpy()
    assert len(dv.model.PCA(n_latent=3).train(adata)._measured_noise().mean) == (~held_out).sum()
    assert len(trained("DiffVAE")._measured_noise().mean) == (~held_out).sum()


def test_an_adapted_model_draws_cells(tmp_path):
    adata = dv.datasets.simulate_differentiation(300, 80, n_batches=3)
    third = adata.obs["batch"] == "batch_3"
    old, new = adata[~third].copy(), adata[third].copy()
    dv.pp.prepare(old)
    adapted = DiffVAE(**TINY).train(old, batch_key="batch", **QUICK).adapt(new)
    assert adapted.sample(5, batch="batch_3").shape == (5, old.n_vars)


def test_tables_of_another_version_are_read(monkeypatch, tmp_path):
    model = DiffVAE(**TINY).train(prepared(), **QUICK)
    with monkeypatch.context() as other:
        other.setattr("diffvae.model._noise.N_ABOVE", 3)
        other.setattr("diffvae.model._noise.N_LEVELS", 5)
        model.save(tmp_path / "model")
        drawn = model.sample(20).X
    np.testing.assert_array_equal(dv.model.load(tmp_path / "model").sample(20).X, drawn)


def test_tables_agree_with_a_loop_over_genes():
    rng = np.random.default_rng(0)
    decoded = rng.normal(0, 1, (70, 400)).astype(np.float32)
    x = (rng.poisson(np.exp(decoded - 0.5)) - 2).astype(np.float32)  # values of either sign
    x[0], x[1], x[1, 7] = -2, -2, 3  # no value above the floor, and one
    is_above = x > x.min(axis=1, keepdims=True)
    zeros, edges, bins = _noise._share_of_floor(decoded, is_above)
    above, above_edges, rank = _noise._values_above(x, decoded, is_above, rng)
    for g in range(len(x)):
        np.testing.assert_allclose(edges[:, g], np.quantile(decoded[g], np.arange(1, 10) / 10), rtol=1e-5)
        np.testing.assert_array_equal(bins[g], np.searchsorted(edges[:, g], decoded[g], side="right"))
        np.testing.assert_allclose(zeros[:, g], [1 - is_above[g, bins[g] == b].mean() for b in range(10)])
        cells = np.flatnonzero(is_above[g])
        n_parts = max(1, min(8, len(cells) // 25))
        placed = np.searchsorted(above_edges[:, g], decoded[g, cells], side="right")
        sizes = np.bincount(placed, minlength=n_parts)
        assert len(sizes) == n_parts
        assert np.ptp(sizes) <= 1
        for part in range(n_parts if len(cells) else 0):
            of_part = cells[placed == part]
            values = np.quantile(x[g, of_part], np.linspace(0, 1, 17), method="nearest")
            np.testing.assert_array_equal(above[part, :, g], values)
            ranks = np.sort(rank[g, of_part])
            np.testing.assert_allclose(ranks, (np.arange(len(of_part)) + 0.5) / len(of_part), rtol=1e-4)
            assert (np.diff(x[g, of_part[np.argsort(rank[g, of_part])]]) >= 0).all()
        assert (above[n_parts:, :, g] == above[n_parts - 1, :, g]).all()


def test_equal_values_have_random_ranks():
    rng = np.random.default_rng(0)
    decoded = np.tile(np.arange(24, dtype=np.float32), (2000, 1))
    x = np.ones_like(decoded)
    x[:, 0] = 0
    *_, rank = _noise._values_above(x, decoded, x > 0, rng)
    np.testing.assert_allclose(rank[:, 1:].mean(axis=0), 0.5, atol=0.03)  # 4.6 standard errors


def test_memory_stays_a_small_multiple_of_the_cells():
    rng = np.random.default_rng(0)
    x = np.log1p(rng.poisson(0.4, (1000, 4000))).astype(np.float32)
    z = np.zeros((1000, 2), np.float32)
    tracemalloc.start()
    Noise.fit(x, np.full_like(x, 0.3) + 0.1 * rng.random(x.shape, np.float32), z, z, None, rng)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 9 * x.nbytes  # a loop over genes with bins of 8 bytes took 12


def test_of_many_genes_fewer_cells_are_measured(monkeypatch):
    monkeypatch.setattr(_noise, "MIN_CELLS", 10)
    adata = prepared()
    monkeypatch.setattr(_noise, "MAX_VALUES", 50 * adata.n_vars)
    assert len(dv.model.PCA(n_latent=3).train(adata)._measured_noise().mean) == 50
    monkeypatch.setattr(_noise, "MAX_VALUES", 5 * adata.n_vars)
    assert len(dv.model.PCA(n_latent=3).train(adata)._measured_noise().mean) == 10


@pytest.mark.parametrize("name", ["PCA", "DiffVAE"])
def test_what_happens_to_the_cells_after_the_training_changes_nothing(name):
    def draws(changes):
        adata = prepared()
        model = dv.model.PCA(n_latent=3).train(adata) if name == "PCA" else DiffVAE(**TINY).train(adata, **QUICK)
        if changes:
            adata.layers["unit"] *= 0.5
        return model.sample(50).X

    np.testing.assert_array_equal(draws(True), draws(False))


def test_a_model_of_whole_numbers_draws_whole_numbers():
    rng = np.random.default_rng(0)
    adata = prepared()
    adata.layers["counts"] = rng.poisson(rng.gamma(2, 2, adata.shape)).astype(np.float32)
    model = dv.model.PCA(n_latent=3).train(adata, layer="counts")
    counts = model.sample(100).layers["counts"]
    np.testing.assert_array_equal(counts, np.rint(counts))
    assert counts.std() == pytest.approx(adata.layers["counts"].std(), rel=0.1)
    adata.layers["counts"] *= 1.3
    drawn = dv.model.PCA(n_latent=3).train(adata, layer="counts").sample(100).layers["counts"]
    assert (drawn != np.rint(drawn)).mean() > 0.5
