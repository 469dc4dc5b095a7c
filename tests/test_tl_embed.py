import numpy as np
import pytest

import diffvae as dv
from diffvae import tl
from diffvae._errors import DataError


@pytest.fixture(scope="module")
def raw():
    return dv.datasets.simulate_differentiation(120, 60, rng=0)


@pytest.fixture(scope="module")
def trained(raw):
    adata = dv.pp.prepare(raw[:100].copy(), copy=True)
    return adata, dv.model.PCA(n_latent=4).train(adata)


def test_embed_writes_the_latent_and_where_it_is_from(trained):
    adata, model = trained[0].copy(), trained[1]
    assert tl.embed(adata, model) is None
    assert (adata.obsm["X_diffvae"] == model.get_latent_representation()).all()
    about = adata.uns["diffvae"]["embed"]
    assert about["model"] == "PCA"
    assert about["training_fingerprint"] == model.features.fingerprint
    assert "prepare" in adata.uns["diffvae"]  # what earlier steps wrote stays


def test_new_cells_pass_as_they_are(trained, raw):
    adata, model = trained
    known, new = raw[:100].copy(), raw[100:].copy()
    tl.embed(known, model)
    assert np.allclose(known.obsm["X_diffvae"], model.get_latent_representation(adata), atol=1e-5)
    tl.embed(new, model, key_added="X_new")
    assert new.obsm["X_new"].shape == (20, 4)
    assert new.shape == (20, 60)
    shuffled = raw[100:, ::-1].copy()
    tl.embed(shuffled, model)
    assert np.allclose(shuffled.obsm["X_diffvae"], new.obsm["X_new"], atol=1e-5)


def test_missing_genes_are_said_or_refused(trained, raw):
    _, model = trained
    with pytest.warns(UserWarning, match="genes that the model needs"):
        tl.embed(raw[:, 5:].copy(), model, max_missing=0.5)
    few = raw[:, 40:].copy()
    with pytest.raises(DataError, match="genes that the model needs"):
        tl.embed(few, model)
    assert not len(few.obsm)


def test_copy(trained, raw):
    new = raw[100:].copy()
    other = tl.embed(new, trained[1], copy=True)
    assert not len(new.obsm)
    assert "diffvae" not in new.uns
    assert other.obsm["X_diffvae"].shape == (20, 4)


def test_untrained_model(raw):
    with pytest.raises(RuntimeError, match="is not trained; call train"):
        tl.embed(raw, dv.model.PCA(n_latent=4))
