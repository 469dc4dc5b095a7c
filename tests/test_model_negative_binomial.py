"""DiffVAE with the negative binomial likelihood of counts."""

import numpy as np
import pytest
from _model_data import QUICK, TINY, counts, prepared

import diffvae as dv
from diffvae._errors import DataError
from diffvae.model import DiffVAE
from diffvae.model._likelihoods import log_sizes


def simulated(n_cells=300, seed=0):
    """Counts of two types of cells, with library sizes that vary fourfold."""
    rng = np.random.default_rng(seed)
    adata = counts(seed, n_cells)
    rates = np.exp(rng.normal(0, 1, (2, adata.n_vars)))[np.arange(n_cells) % 2] * rng.uniform(20, 80, n_cells)[:, None]
    adata.X = rng.negative_binomial(4, 4 / (4 + rates)).astype(np.float32)
    return dv.pp.prepare(adata, n_top_genes=None, copy=True)


def test_log_sizes_are_those_of_the_normalisation():
    adata = simulated()
    features = DiffVAE(**TINY, likelihood="nb").train(adata, **QUICK).features
    sizes = np.exp(log_sizes(adata.layers["counts"], adata.layers["unit"], features))
    totals = np.asarray(adata.layers["counts"].sum(1)).ravel()
    inside = np.isclose(sizes, totals / features.target_sum, rtol=1e-3)
    # cells beyond the limits of the scaling are clipped, so that their sizes are approximate
    assert inside.mean() > 0.7
    assert np.corrcoef(sizes, totals)[0, 1] > 0.99


def test_decoded_values_are_on_the_unit_scale_and_do_not_depend_on_the_library_size():
    adata = simulated()
    model = DiffVAE(n_latent=3, likelihood="nb").train(adata, max_epochs=150, lr=1e-2, progress=False)
    decoded, observed = model.reconstruct(), np.asarray(adata.layers["unit"])
    types = np.arange(adata.n_obs) % 2
    means = np.array([[x[types == t].mean(0) for t in (0, 1)] for x in (decoded, observed)])
    assert np.corrcoef(means[0].ravel(), means[1].ravel())[0, 1] > 0.95
    totals = np.asarray(adata.layers["counts"].sum(1)).ravel()
    low, high = totals < np.quantile(totals, 0.3), totals > np.quantile(totals, 0.7)
    rates = np.expm1(decoded * (model.features.maximum - model.features.minimum) + model.features.minimum).sum(1)
    assert totals[high].mean() > 2 * totals[low].mean()
    assert rates[high].mean() == pytest.approx(rates[low].mean(), rel=0.15)


def test_dispersion_is_learnt_and_counts_are_drawn_with_it():
    adata = simulated()
    options = {"max_epochs": 300, "lr": 1e-2, "early_stopping": False, "progress": False}
    model = DiffVAE(n_latent=3, likelihood="nb").train(adata, **options)
    alpha = np.exp(model.module.logvar_x.detach().numpy())
    assert 0.1 < np.median(alpha) < 0.6  # 1/4 in the simulation
    artificial = model.sample(400, noise=False, rng=0)
    drawn = artificial.layers["counts"]
    assert (drawn >= 0).all()
    assert (drawn == np.rint(drawn)).all()
    again = model.sample(400, noise=False, rng=0).layers["counts"]
    np.testing.assert_array_equal(drawn, again)
    assert np.median(drawn.sum(1)) == pytest.approx(model.features.target_sum, rel=0.3)


def test_it_can_be_saved_and_gives_weights_and_jacobian(tmp_path):
    model = DiffVAE(**TINY, likelihood="nb").train(prepared(), **QUICK)
    model.save(tmp_path / "model")
    again = dv.model.load(tmp_path / "model")
    z = model.get_latent_representation()
    np.testing.assert_array_equal(again.decode(z), model.decode(z))
    eps, at = 1e-2, np.zeros_like(z[:1])
    step = at.copy()
    step[0, 1] = eps
    slope = (model.decode(at + step) - model.decode(at - step)) / (2 * eps)
    np.testing.assert_allclose(model.gene_jacobian(at)[1], slope[0], atol=2e-2)


@pytest.mark.parametrize("change", ["missing", "fractions"])
def test_what_are_not_counts_is_refused(change):
    adata = prepared()
    if change == "missing":
        del adata.layers["counts"]
    else:
        adata.layers["counts"] = adata.layers["counts"] * 0.5
    with pytest.raises(DataError, match=r"likelihood='nb' models counts, but adata.layers"):
        DiffVAE(**TINY, likelihood="nb").train(adata, **QUICK)
