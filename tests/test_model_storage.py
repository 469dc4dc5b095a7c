"""A saved model: three plain files, and every way in which they can be damaged."""

import json
import pickle
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from _model_data import MAKERS, QUICK, TINY, counts, prepared, trained

import diffvae
from diffvae.model import PCA, VAE, DiffVAE, load
from diffvae.pp import DataError


@pytest.fixture(params=["DiffVAE", "AutoEncoder", "PCA"])
def folder(request, tmp_path):
    trained(request.param).save(tmp_path / "model")
    return tmp_path / "model"


def edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_folder_holds_three_plain_files(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "history.csv", "weights.safetensors"]
    assert list(folder.parent.iterdir()) == [folder]
    (folder / "another").write_text("")
    assert len({stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}) == 1  # as readable as any new file


def test_config_says_how_the_model_came_about(tmp_path):
    model = trained("DiffVAE")
    model.save(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["model"] == "DiffVAE"
    assert config["params"]["preset"] == "default"
    assert config["params"]["hidden"] == [16, 8]
    assert config["features"]["gene_names"] == list(prepared().var_names)
    assert config["features"]["fingerprint"] == model.features.fingerprint
    assert config["features"]["target_sum"] == 1e4
    assert config["versions"]["diffvae"] == diffvae.__version__
    assert config["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_presets_survive(preset, tmp_path):
    model = DiffVAE(preset, **TINY).train(prepared(), **QUICK)
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.get_params() == model.get_params()
    assert again.preset == preset
    new = counts(seed=2)
    np.testing.assert_array_equal(again.get_latent_representation(new), model.get_latent_representation(new))


def test_gaussian_variance_and_numbers_of_numpy_survive(tmp_path):
    model = VAE(n_latent=np.int64(2), hidden=np.array([8]), likelihood="gaussian", kl_weight=np.float32(0.5))
    model.train(prepared(), **QUICK).save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert torch.equal(again.module.logvar_x, model.module.logvar_x)
    model = PCA(n_latent=np.int64(2)).train(prepared())
    model.save(tmp_path / "pca")
    assert load(tmp_path / "pca").n_latent == 2


def test_saving_does_not_replace_unless_told(folder):
    model = trained("VAE")
    with pytest.raises(ValueError, match="has results already; name another folder, or pass overwrite"):
        model.save(folder)
    model.save(folder, overwrite=True)
    assert isinstance(load(folder), VAE)


def test_saving_never_replaces_what_is_not_ours(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds files that diffvae did not write"):
        trained("PCA").save(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_model_that_is_not_trained_writes_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="is not trained"):
        MAKERS["DiffVAE"]().save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_loading_as_another_class(tmp_path):
    trained("VAE").save(tmp_path / "model")
    for cls in (DiffVAE, PCA):
        with pytest.raises(DataError, match=rf"holds a VAE, not a {cls.__name__}; use diffvae\.model\.load"):
            cls.load(tmp_path / "model")


def test_folder_that_is_no_model(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"holds no config\.json, so it is not a saved model"):
            load(path)


@pytest.mark.parametrize("name", ["weights.safetensors", "history.csv"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match="is a damaged model"):
        load(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "history.csv", "config.json"])
@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_truncated_file(folder, name, keep):
    content = (folder / name).read_bytes()
    if name == "history.csv" and keep:
        content = content.replace(b"epoch", b"time") * 2  # half a table may be a whole one; this can't be
    (folder / name).write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DataError, match="is a damaged model"):
        load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("params"),
        lambda c: c.pop("features"),
        lambda c: c["params"].update(n_latent=3),
        lambda c: c["params"].update(n_latent="many"),
        lambda c: c["params"].update(colour="blue"),
        lambda c: c["features"]["gene_names"].pop(),
        lambda c: c["features"].update(gene_names=None),
        lambda c: c.update(format="one"),
        lambda c: c.update(features=[]),
    ],
)
def test_config_that_does_not_fit(folder, change):
    edit(folder, change)
    with pytest.raises(DataError, match="is a damaged model"):
        load(folder)


def test_config_that_is_no_table(folder):
    (folder / "config.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="is a damaged model"):
        load(folder)


@pytest.mark.parametrize("name", ["os.system", "Model", "NeuralModel", "TransformerVAE"])
def test_unknown_class(folder, name):
    edit(folder, lambda c: c.update(model=name))
    with pytest.raises(DataError, match=f"The saved model is a '{name}'; this version of diffvae knows DiffVAE, VAE"):
        load(folder)


def test_newer_format(folder):
    edit(folder, lambda c: c.update(format=99, versions={"diffvae": "7.1"}))
    with pytest.raises(DataError, match=r"was written by a newer diffvae \(7\.1\); update yours"):
        load(folder)
    edit(folder, lambda c: c.pop("versions"))
    with pytest.raises(DataError, match="was written by a newer diffvae"):
        load(folder)


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["weights.safetensors", "history.csv", "config.json", "torch"])
def test_nothing_in_the_folder_is_executed(folder, name, tmp_path):
    mark = tmp_path / "executed"
    if name == "torch":
        torch.save({"weights": _Bomb(mark)}, folder / "weights.safetensors")
    else:
        (folder / name).write_bytes(pickle.dumps(_Bomb(mark)))
    with pytest.raises(DataError, match="is a damaged model"):
        load(folder)
    assert not mark.exists()
    pickle.loads(pickle.dumps(_Bomb(mark)))
    assert mark.exists()  # the bomb was live
