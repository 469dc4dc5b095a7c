import anndata as ad
import numpy as np
import pytest

import diffvae as dv
from diffvae import tl
from diffvae._errors import OutputError
from diffvae.pp import DataError


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
    assert (adata.obsm["X_diffvae_sd"] == model.get_posterior()[1]).all()
    about = adata.uns["diffvae"]["embed"]
    assert about["model"] == "PCA"
    assert about["training_fingerprint"] == model.features.fingerprint
    assert "prepare" in adata.uns["diffvae"]  # what earlier steps wrote stays
    other = tl.embed(trained[0], model, copy=True)
    assert not len(trained[0].obsm)
    assert other.obsm["X_diffvae"].shape == (100, 4)
    with pytest.raises(RuntimeError, match="is not trained; call train"):
        tl.embed(adata, dv.model.PCA(n_latent=4))


def test_a_model_without_posterior_leaves_no_deviations(trained):
    adata = tl.embed(*trained, copy=True)
    assert "X_diffvae_sd" in adata.obsm
    autoencoder = dv.model.AutoEncoder(n_latent=4, hidden=(8,)).train(adata, max_epochs=1, progress=False)
    tl.embed(adata, autoencoder)
    assert list(adata.obsm) == ["X_diffvae"]


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


# Cells on disk


@pytest.fixture
def files(raw, tmp_path):
    (tmp_path / "parts").mkdir()
    paths = [tmp_path / "parts" / "a.h5ad", tmp_path / "parts" / "b.h5ad"]
    for path, rows in zip(paths, (slice(0, 50), slice(50, 120)), strict=True):
        raw[rows].copy().write_h5ad(path)
    return paths


def test_the_cells_themselves_are_never_replaced(trained, files, tmp_path):
    link, roundabout = tmp_path / "link.h5ad", tmp_path / "parts" / ".." / "parts" / "b.h5ad"
    link.symlink_to(files[0])
    for out in (files[1], link, roundabout):
        with pytest.raises(OutputError, match="holds the cells themselves; name another file"):
            tl.embed(files, trained[1], out=out, overwrite=True)
    with pytest.raises(OutputError, match="holds the cells themselves"):
        tl.embed(ad.read_h5ad(files[0], backed="r"), trained[1], out=files[0], overwrite=True)
    assert [ad.read_h5ad(path).X.shape for path in files] == [(50, 60), (70, 60)]
    out = tmp_path / "out.h5ad"
    for _ in range(2):
        assert tl.embed(files, trained[1], out=out, overwrite=True) == out
    written = ad.read_h5ad(out)
    assert written.obsm["X_diffvae"].shape == written.obsm["X_diffvae_sd"].shape == (120, 4)
    assert (written.obsm["X_diffvae_sd"] == trained[1].get_posterior()[1][0]).all()  # PCA's is the same for all cells


def test_the_command_does_not_replace_them_either(trained, files, tmp_path, diffvae):
    trained[1].save(tmp_path / "model")
    code, _, err = diffvae(
        "embed", files[0], "--model", tmp_path / "model", "--out", files[0], "--overwrite", "--backed"
    )
    assert (code, "holds the cells themselves; name another file." in err) == (2, True)
    assert ad.read_h5ad(files[0]).X.shape == (50, 60)


@pytest.mark.filterwarnings("ignore:.*zarr v2:UserWarning")
def test_only_a_store_is_replaced_by_a_store(trained, files, tmp_path):
    foreign, out = tmp_path / "mine.zarr", tmp_path / "out.zarr"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("important")
    with pytest.raises(OutputError, match=r"mine\.zarr' is no zarr store, so it isn't replaced; name another"):
        tl.embed(files, trained[1], out=foreign, overwrite=True)
    assert (foreign / "thesis.txt").exists()
    out.mkdir()  # empty
    for _ in range(2):
        tl.embed(files, trained[1], out=out, overwrite=True)
    assert ad.read_zarr(out).obsm["X_diffvae"].shape == (120, 4)


@pytest.mark.filterwarnings("ignore:.*zarr v2:UserWarning")
@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_no_cells_have_an_empty_representation(trained, tmp_path, form):
    adata, model = trained
    adata[:0].copy().write_h5ad(tmp_path / "none.h5ad")
    out = tl.embed(tmp_path / "none.h5ad", model, out=tmp_path / f"out.{form}")
    assert (ad.read_zarr if form == "zarr" else ad.read_h5ad)(out).obsm["X_diffvae"].shape == (0, 4)
