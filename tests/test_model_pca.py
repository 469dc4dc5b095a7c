"""PCA against scikit-learn."""

import numpy as np
import pytest
import scipy.sparse as sp
from _model_data import prepared
from sklearn.decomposition import PCA as Reference

from diffvae.model import PCA, _pca


@pytest.fixture(params=[np.asarray, sp.csr_matrix, sp.csr_array], ids=lambda kind: kind.__name__)
def adata(request):
    adata = prepared()
    adata.layers["unit"] = request.param(adata.layers["unit"])
    return adata


def test_it_is_that_of_scikit_learn_up_to_sign(adata):
    unit, train = prepared().layers["unit"].astype(float), (adata.obs["diffvae_split"] == "train").to_numpy()
    model, reference = PCA(n_latent=6).train(adata), Reference(6).fit(unit[train])
    theirs = reference.transform(unit)
    ours = model.get_latent_representation()
    signs = np.sign((theirs * ours).sum(0))
    np.testing.assert_allclose(ours, theirs * signs, atol=1e-5)
    np.testing.assert_allclose(model.components, reference.components_.T * signs, atol=1e-6)
    np.testing.assert_allclose(model.reconstruct(), reference.inverse_transform(theirs), atol=1e-5)
    np.testing.assert_allclose(model.gene_weights(), (reference.components_.T * signs).T, atol=1e-6)
    np.testing.assert_array_equal(model.gene_jacobian(ours), model.gene_weights())


def test_history_is_the_squared_error_per_cell_of_both_splits(adata):
    unit, train = prepared().layers["unit"].astype(float), (adata.obs["diffvae_split"] == "train").to_numpy()
    model = PCA(n_latent=3).train(adata)
    errors = np.square(unit - model.reconstruct()).sum(1)
    assert model.history.loc[1, "train_mse"] == pytest.approx(errors[train].mean(), rel=1e-5)
    assert model.history.loc[1, "validation_mse"] == pytest.approx(errors[~train].mean(), rel=1e-5)
    assert list(PCA(n_latent=3).train(adata, validation_size=0).history) == ["train_mse"]


def test_covariance_is_summed_over_blocks(monkeypatch):
    x = np.random.default_rng(0).normal(size=(50, 4))
    for matrix in (x, sp.csr_matrix(x)):
        np.testing.assert_allclose(_pca._gram(matrix), x.T @ x, atol=1e-9)
    x = np.random.default_rng(0).normal(size=(5000, 2)).astype(np.float32)  # three blocks
    np.testing.assert_allclose(_pca._gram(x), x.astype(float).T @ x, rtol=1e-9)


def test_sign_is_that_of_the_heaviest_gene(adata):
    components = PCA(n_latent=6).train(adata).components
    assert (components[np.abs(components).argmax(0), range(6)] > 0).all()


def test_more_components_than_the_data_have():
    with pytest.raises(
        ValueError, match="n_latent is 40, but 80 training cells with 40 genes have at most 39 principal"
    ):
        PCA(n_latent=40).train(prepared())
    with pytest.raises(ValueError, match="n_latent is 0; it must be a whole number of 1 or more"):
        PCA(n_latent=0)


def test_arguments_of_other_models_are_ignored_and_typing_errors_are_not():
    PCA(n_latent=2).train(prepared(), max_epochs=3, device="cpu", progress=False)
    with pytest.raises(TypeError, match="unexpected argument 'max_epoch'"):
        PCA(n_latent=2).train(prepared(), max_epoch=3)
