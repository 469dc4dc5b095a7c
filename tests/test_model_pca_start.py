"""The start of a training at PCA, and targets that are means of neighbours."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from _model_data import N_LATENT, QUICK, TINY, prepared
from sklearn.decomposition import PCA as SklearnPCA

from diffvae import _keys
from diffvae.model import DiffVAE, _pca_start, load
from diffvae.model._features import read_features, split_rows
from diffvae.model._likelihoods import LIKELIHOODS
from diffvae.model._pca_start import NeighborMean, neighbor_weights, principal_components, start_at_components
from diffvae.nn import Autoencoder


def parts(adata=None):
    adata = prepared() if adata is None else adata
    matrix = adata.layers["unit"]
    features = read_features(adata, "unit", matrix)
    train_rows, validation_rows = split_rows(adata, None, 0)
    return matrix, features, train_rows, validation_rows


def dense(matrix):
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)


def log_values(matrix, features):
    return dense(matrix) * (features.maximum - features.minimum)


def test_components_are_those_of_the_log_values_of_the_training_cells():
    matrix, features, train_rows, _ = parts()
    components = principal_components(matrix, features, train_rows, N_LATENT, 0)
    x = log_values(matrix, features)
    expected = SklearnPCA(4, svd_solver="full").fit(x[train_rows])
    np.testing.assert_allclose(components.singular_values[:4], expected.singular_values_, rtol=1e-4)
    np.testing.assert_allclose(np.abs(components.axes[:4] @ expected.components_.T), np.eye(4), atol=1e-3)
    np.testing.assert_allclose(
        np.abs(components.scores(matrix)[:, :4]), np.abs(expected.transform(x)), rtol=1e-3, atol=1e-3
    )


def test_components_of_many_cells_are_those_of_a_random_part(monkeypatch):
    monkeypatch.setattr(_pca_start, "REFERENCE_CELLS", 30)
    matrix, features, train_rows, _ = parts()
    components = principal_components(matrix, features, train_rows, N_LATENT, 0)
    assert len(components.rows) == 30
    assert set(components.rows) < set(train_rows)
    other = principal_components(matrix, features, train_rows, N_LATENT, 1)
    assert set(other.rows) != set(components.rows)


@pytest.mark.parametrize("resident", [True, False])
def test_target_is_the_mean_of_the_cell_and_its_nearest_training_cells(resident, monkeypatch):
    if not resident:
        monkeypatch.setattr(_pca_start, "RESIDENT_LIMIT", 0)
    matrix, features, train_rows, validation_rows = parts()
    components = principal_components(matrix, features, train_rows, N_LATENT, 0)
    targets = NeighborMean(matrix, components, neighbor_weights(matrix, components, 5), torch.device("cpu"))
    scores, x = components.scores(matrix)[:, :50], dense(matrix)
    for row in (train_rows[0], train_rows[-1], validation_rows[0]):
        others = train_rows[train_rows != row]
        nearest = others[np.argsort(np.linalg.norm(scores[others] - scores[row], axis=1))[:5]]
        rows = np.array([row])
        got = targets(rows, torch.from_numpy(x[rows]).float()).numpy()[0]
        np.testing.assert_allclose(got, (x[row] + x[nearest].sum(0)) / 6, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        targets.of_reference(components), targets(train_rows, torch.from_numpy(x[train_rows]).float()), atol=1e-6
    )


def test_a_cell_outside_the_reference_gets_its_nearest_reference_cells(monkeypatch):
    monkeypatch.setattr(_pca_start, "REFERENCE_CELLS", 30)
    matrix, features, train_rows, _ = parts()
    components = principal_components(matrix, features, train_rows, N_LATENT, 0)
    targets = NeighborMean(matrix, components, neighbor_weights(matrix, components, 5), torch.device("cpu"))
    row = np.setdiff1d(train_rows, components.rows)[:1]
    scores, x = components.scores(matrix)[:, :50], dense(matrix)
    nearest = components.rows[np.argsort(np.linalg.norm(scores[components.rows] - scores[row], axis=1))[:5]]
    got = targets(row, torch.from_numpy(x[row]).float()).numpy()[0]
    np.testing.assert_allclose(got, (x[row[0]] + x[nearest].sum(0)) / 6, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("likelihood", ["bernoulli", "mse"])
@pytest.mark.parametrize("few_components", [True, False])
def test_start_is_the_posterior_of_the_linear_model(likelihood, few_components, monkeypatch):
    if few_components:
        monkeypatch.setattr(_pca_start, "N_COMPONENTS", 30)
    matrix, features, train_rows, _ = parts()
    components = principal_components(matrix, features, train_rows, N_LATENT, 0)
    values = dense(components.values)
    module = Autoencoder(40, (8,), N_LATENT, linear_skip=True).eval()
    start_at_components(module, components, values, LIKELIHOODS[likelihood])
    s = components.singular_values
    noise = s[29] if few_components else 0  # 40 genes: nothing is noise
    share = np.sqrt(np.maximum(1 - (noise / s[:N_LATENT]) ** 2, 1e-4))
    with torch.no_grad():
        for part in (module.encoder.mu, module.encoder.logvar, module.decoder.linears[-1]):
            part.weight.zero_()
        mu, logvar = module.encoder(torch.from_numpy(values).float())
        output = module.decoder(mu * 0)
        mean = torch.sigmoid(output) if likelihood == "bernoulli" else output
    np.testing.assert_allclose(mu.std(0, correction=0), share, rtol=1e-3)
    np.testing.assert_allclose(mu.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(logvar[0], np.log(np.maximum(1 - share**2, 0.02)), rtol=1e-4)
    np.testing.assert_allclose(mean[0], values.mean(0), atol=2e-4)


def test_more_dimensions_than_components_start_at_the_prior():
    adata = prepared()[:20].copy()
    adata.obs[_keys.SPLIT] = "training"
    matrix, features, train_rows, _ = parts(adata)
    components = principal_components(matrix, features, train_rows, 30, 0)
    module = Autoencoder(40, (8,), 30, linear_skip=True)
    start_at_components(module, components, dense(components.values), LIKELIHOODS["bernoulli"])
    assert not module.encoder.skip.weight[20:].any()
    assert not module.decoder.skip.weight[:, 20:].any()
    assert not module.encoder.logvar.bias[20:].any()
    assert all(torch.isfinite(p).all() for p in module.parameters())
    model = DiffVAE(n_latent=30).train(adata, **QUICK)
    assert np.isfinite(model.get_latent_representation()).all()


def test_the_default_embeds_new_cells_without_a_graph_and_can_be_saved(tmp_path):
    model = DiffVAE(**TINY).train(prepared(), **QUICK)
    new = prepared()[:7].copy()
    expected = model.get_latent_representation()[:7]
    np.testing.assert_allclose(model.get_latent_representation(new), expected, atol=1e-5)
    model.save(tmp_path / "model")
    np.testing.assert_allclose(load(tmp_path / "model").get_latent_representation(new), expected, atol=1e-5)


def test_a_model_saved_before_there_was_a_linear_skip_is_read(tmp_path):
    import json

    old = DiffVAE(**TINY, linear_skip=False, target_neighbors=0).train(prepared(), **QUICK)
    old.save(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    for name in ("linear_skip", "target_neighbors", "batch_size", "covariance_weight"):
        del config["params"][name]
    file.write_text(json.dumps(config))
    again = load(tmp_path / "model")
    assert not again.config.linear_skip
    np.testing.assert_array_equal(
        again.get_latent_representation(prepared()), old.get_latent_representation(prepared())
    )


@pytest.mark.parametrize("n_genes", [1, 3])
def test_with_few_genes_no_component_is_noise(n_genes):
    adata = prepared()[:, :n_genes].copy()
    model = DiffVAE(n_latent=n_genes, hidden=(8,)).train(adata, max_epochs=30, progress=False)
    x, decoded = dense(adata.layers["unit"]), model.reconstruct()
    assert all(np.corrcoef(x[:, g], decoded[:, g])[0, 1] > 0.7 for g in range(n_genes))


def test_the_noise_of_fewer_cells_than_components_is_their_last_component():
    matrix, features, train_rows, _ = parts()
    few = train_rows[:20]
    components = principal_components(matrix[:, :], features, few, N_LATENT, 0)
    module = Autoencoder(40, (8,), N_LATENT, linear_skip=True).eval()
    start_at_components(module, components, dense(components.values), LIKELIHOODS["bernoulli"])
    assert all(torch.isfinite(p).all() for p in module.parameters())


def parts_in_batches():
    """Return the parts of cells in three batches, their batches, and components without the offsets of these."""
    adata = prepared()
    codes = np.arange(adata.n_obs) % 3
    unit = dense(adata.layers["unit"])
    shift = np.random.default_rng(0).normal(0, 0.1, (3, unit.shape[1]))
    adata.layers["unit"] = (unit + shift[codes]).clip(0, 1).astype(np.float32)
    matrix, features, train_rows, validation_rows = parts(adata)
    return matrix, features, codes, validation_rows, principal_components(matrix, features, train_rows, 4, 0, codes)


def test_components_of_batches_are_those_without_their_offsets():
    matrix, _, codes, _, components = parts_in_batches()
    assert np.abs(components.offsets).max() > 0.05
    values = dense(matrix) - components.offsets[codes]
    np.testing.assert_allclose(components.values, values[components.rows], atol=1e-6)
    expected = SklearnPCA(4, svd_solver="full").fit(values[components.rows] * components.scale)
    np.testing.assert_allclose(components.singular_values[:4], expected.singular_values_, rtol=1e-3)
    scores = components.scores(matrix, codes)[:, :4]
    np.testing.assert_allclose(np.abs(scores), np.abs(expected.transform(values * components.scale)), atol=2e-3)


@pytest.mark.parametrize("resident", [True, False])
def test_neighbours_of_other_batches_are_carried_into_the_batch_of_the_cell(resident, monkeypatch):
    if not resident:
        monkeypatch.setattr(_pca_start, "RESIDENT_LIMIT", 0)
    matrix, _, codes, validation_rows, components = parts_in_batches()
    weights = neighbor_weights(matrix, components, 5, codes)
    x, scores = dense(matrix), components.scores(matrix, codes)[:, :50]
    left = 0
    of = [NeighborMean(matrix, components, weights, torch.device("cpu"), codes, unit_interval=u) for u in (True, False)]
    for row in (components.rows[0], components.rows[-1], *validation_rows):
        others = components.rows[components.rows != row]
        nearest = others[np.argsort(np.linalg.norm(scores[others] - scores[row], axis=1))[:5]]
        carried = x[nearest] - components.offsets[codes[nearest]] + components.offsets[codes[row]]
        expected = (x[row] + carried.sum(0)) / 6
        rows, left = np.array([row]), left + (np.abs(expected - 0.5) > 0.51).sum()
        clipped, free = (means(rows, torch.from_numpy(x[rows]).float()).numpy()[0] for means in of)
        np.testing.assert_allclose(free, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(clipped, expected.clip(0, 1), rtol=1e-4, atol=1e-5)
    assert left  # some targets had to be clipped


@pytest.mark.parametrize("likelihood", ["bernoulli", "mse"])
def test_the_start_takes_the_offset_from_a_cell_and_gives_it_back(likelihood):
    matrix, _, codes, _, components = parts_in_batches()
    module = Autoencoder(40, (8,), 4, linear_skip=True, n_covariates=4).eval()
    start_at_components(module, components, dense(components.values), LIKELIHOODS[likelihood])
    of_batch = torch.eye(4)[codes[components.rows]]  # three batches and another covariate
    x, values = (torch.from_numpy(dense(some)).float() for some in (matrix[components.rows], components.values))
    with torch.no_grad():
        plain, none = module.encoder(values, None, torch.zeros(len(values), 4))
        mu, logvar = module.encoder(x, None, of_batch)
        module.decoder.linears[-1].weight.zero_()
        output = module.decoder(torch.zeros(4, 4), torch.eye(4))
        mean = torch.sigmoid(output) if likelihood == "bernoulli" else output
    np.testing.assert_allclose(mu, plain, atol=1e-4)
    np.testing.assert_allclose(logvar, none, atol=1e-4)
    center = dense(components.values).mean(0)
    np.testing.assert_allclose(mean[:3], (center + components.offsets).clip(1e-4, 1 - 1e-4), atol=5e-4)
    np.testing.assert_allclose(mean[3], center, atol=5e-4)


def test_other_than_reference_cells_have_the_partners_of_their_neighbours_in_their_batch():
    partners = np.array([[0.0, 2.0], [0.0, 4.0], [6.0, 0.0]], np.float32)
    components = _pca_start.Components(None, np.array([0, 1, 2]), *[np.zeros(1)] * 4, None, partners)
    weights = sp.csr_matrix(np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 1, 0], [0, 1, 1], [1, 1, 0]], float) / 3)
    codes = np.array([0, 0, 1, 0, 1, 1])  # the last has no neighbour in its batch
    found = _pca_start.partners_of_all(components, weights, codes)
    np.testing.assert_allclose(found, [*partners, [0, 3], [6, 0], [0, 0]], rtol=1e-6)


def test_partners_are_searched_where_cells_of_one_batch_differ(monkeypatch):
    monkeypatch.setattr(_pca_start, "N_COMPONENTS", 1)
    rng = np.random.default_rng(0)
    codes = np.arange(100) % 2
    types = rng.random(100) < np.array([0.2, 0.8])[codes]
    adata = prepared()[:, :10].copy()
    adata.layers["unit"] = rng.normal(0.1, 0.01, (100, 10)).astype(np.float32)
    adata.layers["unit"][:, 0] += 0.3 * types
    adata.layers["unit"][:, 1] += 0.6 * codes  # more than types differ
    adata.var["unit_min"], adata.var["unit_max"] = 0.0, 1.0
    matrix, features, _, _ = parts(adata)
    found = principal_components(matrix, features, np.arange(100), 1, 0, codes).offsets
    np.testing.assert_allclose(found[1] - found[0], [0, 0.6, *[0] * 8], atol=0.02)
