import anndata as ad
import numpy as np
import pandas as pd
import pytest

from diffvae import metrics, tl
from diffvae.pp import DataError
from diffvae.tl import _tsne

BLOB = np.repeat(["a", "b", "c"], 25)


def cells(z) -> ad.AnnData:
    obs = pd.DataFrame(index=[f"cell {i}" for i in range(len(z))])
    return ad.AnnData(obs=obs, obsm={"X_diffvae": np.asarray(z, dtype=np.float32)})


@pytest.fixture(scope="module")
def z():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(4 * i, 0.5, (25, 4)) for i in range(3)]).astype(np.float32)


@pytest.fixture(scope="module")
def mapped(z):
    adata = cells(z)
    tl.tsne(adata, perplexity=10, n_iter=150, n_jobs=1)
    return adata


def run(z, **options):
    adata = cells(z)
    tl.tsne(adata, perplexity=10, n_iter=150, **{"n_jobs": 1} | options)
    return adata.obsm["X_diffvae_tsne"]


def test_blobs_stay_apart_and_what_is_written(mapped, z):
    map_ = mapped.obsm["X_diffvae_tsne"]
    assert map_.shape == (75, 2)
    assert map_.dtype == np.float32
    assert metrics.knn_purity(map_, BLOB, n_neighbors=10) == 1.0
    about = mapped.uns["diffvae"]["tsne"]
    assert (about["use_rep"], about["perplexity"], about["n_iter"]) == ("X_diffvae", 10.0, 150)
    p = mapped.obsp["diffvae_tsne_affinities"]
    assert p.shape == (75, 75)
    assert p.sum() == pytest.approx(1)
    assert abs(p - p.T).max() == 0
    assert (mapped.obsm["X_diffvae"] == z).all()


def test_the_seed_and_the_start_decide(mapped, z):
    first = mapped.obsm["X_diffvae_tsne"]
    assert (run(z, n_jobs=2) == first).all()  # whatever the number of threads
    by_chance = run(z, init="random")
    assert not np.allclose(by_chance, first, atol=0.1)
    assert not np.allclose(run(z, init="random", rng=1), by_chance, atol=0.1)


def test_affinities_are_used_again_while_they_fit(mapped, monkeypatch, tmp_path):
    adata = mapped.copy()
    first = adata.obsm["X_diffvae_tsne"].copy()
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata = ad.read_h5ad(tmp_path / "a.h5ad")

    def refuse(*args):
        raise AssertionError("computed")

    monkeypatch.setattr(_tsne, "_affinities", refuse)
    tl.tsne(adata, perplexity=10, n_iter=150, n_jobs=1)
    assert (adata.obsm["X_diffvae_tsne"] == first).all()
    tl.tsne(adata, perplexity=10, n_iter=10, init="random", rng=5, n_jobs=1)
    with pytest.raises(AssertionError, match="computed"):
        tl.tsne(adata, perplexity=11)
    with pytest.raises(AssertionError, match="computed"):
        tl.tsne(adata[:60].copy(), perplexity=10)
    adata.obsm["X_diffvae"][0, 0] += 1
    with pytest.raises(AssertionError, match="computed"):
        tl.tsne(adata, perplexity=10)


def test_copy_leaves_the_original_and_perplexity_is_lowered_for_few_cells(z):
    adata = cells(z[:10])
    other = tl.tsne(adata, n_iter=10, n_jobs=1, copy=True)
    assert list(adata.obsm) == ["X_diffvae"]
    assert not adata.uns
    assert "X_diffvae_tsne" in other.obsm
    assert other.uns["diffvae"]["tsne"]["perplexity"] == 3


def test_cells_come_to_their_own_place(mapped, z):
    map_ = mapped.obsm["X_diffvae_tsne"]
    placed = tl.tsne_transform(mapped, z)
    moved = np.linalg.norm(placed - map_, axis=1)
    apart = np.linalg.norm(map_[:, None] - map_[None], axis=2)
    assert moved.max() < 0.1 * apart.max()
    assert (map_ == mapped.obsm["X_diffvae_tsne"]).all()  # the map stays
    centres = tl.tsne_transform(mapped, np.array([[0.0] * 4, [4.0] * 4, [8.0] * 4]))
    nearest = np.linalg.norm(centres[:, None] - map_[None], axis=2).argmin(1)
    assert BLOB[nearest].tolist() == ["a", "b", "c"]


def test_a_place_depends_on_neither_company_nor_order(mapped, z):
    together = tl.tsne_transform(mapped, z[::5])
    assert np.allclose(tl.tsne_transform(mapped, z[::5][::-1])[::-1], together, atol=1e-6)
    assert np.allclose(tl.tsne_transform(mapped, z[:1], n_jobs=1), together[:1], atol=1e-6)
    new = cells(z[:3])
    assert (tl.tsne_transform(mapped, new) == new.obsm["X_diffvae_tsne"]).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"init": "spectral"}, "init is 'spectral'"),
        ({"perplexity": 1}, "perplexity is 1; it must be a number above 1"),
        ({"n_iter": -1}, "n_iter is -1"),
        ({"use_rep": "X_pca"}, r"adata.obsm\['X_pca'\] is missing; there are: X_diffvae"),
        ({"rng": -1}, "rng is -1"),
    ],
)
def test_bad_options_are_refused(z, options, sentence):
    adata = cells(z)
    with pytest.raises(ValueError, match=sentence):
        tl.tsne(adata, **options)
    assert not adata.uns
    assert list(adata.obsm) == ["X_diffvae"]


def test_data_without_a_map(z):
    with pytest.raises(DataError, match="There are only 6 cells; t-SNE needs at least 7"):
        tl.tsne(cells(z[:6]))
    with pytest.raises(DataError, match="All cells are equal in 'X_diffvae'"):
        tl.tsne(cells(np.ones((20, 4))))
    with pytest.raises(DataError, match="NaN or infinite"):
        tl.tsne(cells(np.full((20, 4), np.nan)))


def test_transform_refuses_what_does_not_fit(mapped, z):
    with pytest.raises(DataError, match=r"run diffvae.tl.tsne\(adata\) first"):
        tl.tsne_transform(cells(z), z[:3])
    with pytest.raises(DataError, match=r"shape \(3, 2\), the map was made from 4 dimensions"):
        tl.tsne_transform(mapped, z[:3, :2])
    with pytest.raises(DataError, match=r"shape \(0, 4\)"):
        tl.tsne_transform(mapped, z[:0])
    with pytest.raises(DataError, match="The new cells have NaN"):
        tl.tsne_transform(mapped, z[:3] * np.nan)
    changed = mapped.copy()
    changed.obsm["X_diffvae"][0, 0] += 1
    with pytest.raises(DataError, match="has changed since the map was made"):
        tl.tsne_transform(changed, z[:3])
    other = mapped.copy()
    tl.tsne(other, n_iter=10, perplexity=10, n_jobs=1, key_added="another_map")
    with pytest.raises(DataError, match=r"The last map is adata.obsm\['another_map'\], not 'X_diffvae_tsne'"):
        tl.tsne_transform(other, z[:3])
