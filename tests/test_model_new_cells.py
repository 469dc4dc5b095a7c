"""New cells: genes matched by name, scaled by the training scaling, missing ones reported."""

import re

import numpy as np
import pytest
import scipy.sparse as sp
from _model_data import N_GENES, QUICK, counts, prepared, trained
from anndata import AnnData

import diffvae as dv
from diffvae.model import VAE
from diffvae.pp import DataError

NAMES = ["DiffVAE", "PCA"]


@pytest.fixture(params=NAMES)
def model(request):
    return trained(request.param)


def test_raw_counts_of_the_training_cells_give_the_same_latent(model):
    z = model.get_latent_representation()
    for convert in (np.asarray, sp.csr_matrix):
        raw = counts()
        raw.X = convert(raw.X)
        np.testing.assert_allclose(model.get_latent_representation(raw), z, rtol=1e-3, atol=1e-4)


def test_cells_prepared_by_themselves_are_scaled_by_the_training_scaling(model):
    """Their own unit layer is on another scale, and isn't used."""
    new = counts(seed=5)
    z = model.get_latent_representation(new)
    own = dv.pp.prepare(counts(seed=5), n_top_genes=None, copy=True)
    np.testing.assert_allclose(model.get_latent_representation(own), z, rtol=1e-3, atol=1e-4)
    own.layers["unit"] = np.zeros_like(own.layers["unit"])
    np.testing.assert_allclose(model.get_latent_representation(own), z, rtol=1e-3, atol=1e-4)


def test_order_of_genes_and_additional_genes_do_not_matter(model):
    new = prepared()[:20].copy()
    z = model.get_latent_representation(new)
    order = np.random.default_rng(0).permutation(N_GENES)
    np.testing.assert_allclose(model.get_latent_representation(new[:, order].copy()), z, rtol=1e-4, atol=1e-5)
    raw = counts(seed=5)
    z = model.get_latent_representation(raw)
    np.testing.assert_allclose(model.get_latent_representation(raw[:, order].copy()), z, rtol=1e-3, atol=1e-4)
    more = AnnData(np.hstack([np.zeros((raw.n_obs, 1), np.float32), raw.X]))
    more.obs_names, more.var_names = raw.obs_names, ["never seen", *raw.var_names]
    np.testing.assert_allclose(model.get_latent_representation(more), z, rtol=1e-3, atol=1e-4)


def test_order_of_cells_does_not_matter(model):
    new = counts(seed=5)
    z = model.get_latent_representation(new)
    np.testing.assert_allclose(model.get_latent_representation(new[::-1].copy()), z[::-1], rtol=1e-4, atol=1e-5)


def test_missing_genes_count_as_not_expressed_with_a_warning(model):
    raw = counts()  # no value lies outside the training range by much
    missing = ["gene3", "gene17", "gene30"]
    raw.X[:, raw.var_names.isin(missing)] = 0
    z = model.get_latent_representation(raw)
    fewer = raw[:, ~raw.var_names.isin(missing)].copy()
    sentence = re.escape("3 of the 40 genes that the model needs (7.5%) are missing and were taken as 0")
    with pytest.warns(UserWarning, match=sentence) as caught:
        again = model.get_latent_representation(fewer)
    np.testing.assert_allclose(again, z, rtol=1e-3, atol=1e-4)
    assert caught[0].filename == __file__  # it points at the caller


@pytest.mark.parametrize(("n_missing", "max_missing"), [(9, 0.2), (1, 0.0), (21, 0.5)])
def test_too_many_missing_genes_are_refused(model, n_missing, max_missing):
    fewer = counts(seed=5)[:, n_missing:].copy()
    with pytest.raises(DataError, match=f"{n_missing} of the 40 genes .* more than max_missing={max_missing:g} allows"):
        model.get_latent_representation(fewer, max_missing=max_missing)


def test_share_of_missing_genes_may_be_raised(model):
    fewer = counts(seed=5)[:, 12:].copy()
    with (
        pytest.warns(UserWarning, match="12 of the 40 genes"),
        pytest.warns(UserWarning, match="lie outside the range of the training cells"),  # totals of fewer genes
    ):
        assert model.reconstruct(fewer, max_missing=0.3).shape == (fewer.n_obs, N_GENES)


@pytest.fixture(scope="module")
def unscaled():
    return VAE(n_latent=2, hidden=(8,), likelihood="gaussian").train(prepared(), layer=None, **QUICK)


def test_model_of_another_layer_takes_that_layer_by_gene_names(unscaled):
    z = unscaled.get_latent_representation()
    order = np.random.default_rng(0).permutation(N_GENES)
    np.testing.assert_allclose(unscaled.get_latent_representation(prepared()[:, order].copy()), z, rtol=1e-4, atol=1e-5)


def test_model_of_another_layer_needs_all_genes(unscaled):
    with pytest.raises(DataError, match=r"2 of the model's 40 genes are not in adata\.var_names, for example 'gene0'"):
        unscaled.get_latent_representation(prepared()[:, 2:].copy())


def test_model_of_another_layer_refuses_duplicated_genes(unscaled):
    adata = prepared()
    adata.var_names = ["gene1", *adata.var_names[1:]]
    with pytest.raises(DataError, match=r"run adata\.var_names_make_unique\(\) first"):
        unscaled.get_latent_representation(adata)


def test_no_cells_at_all(unscaled):
    assert unscaled.get_latent_representation(prepared()[:0].copy()).shape == (0, 2)
