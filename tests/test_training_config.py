"""The configuration that tune writes and run takes."""

import json

import pytest

import diffvae as dv
from diffvae.pipeline import _settings


def test_a_file_and_a_mapping_say_the_same(tmp_path):
    settings = {"preset": "paper", "n_latent": 7, "hidden": [32, 16], "lr": 1e-4, "batch_size": 64, "max_epochs": 3}
    file = tmp_path / "best.json"
    file.write_text(json.dumps(settings))
    assert _settings.read(file) == _settings.read(str(file)) == _settings.read(settings) == settings
    assert _settings.read(None) == {}
    model = _settings.model_of(settings)
    assert model.config == dv.model.DiffVAE("paper", n_latent=7, hidden=(32, 16), lr=1e-4).config
    assert _settings.training_of(settings) == {"batch_size": 64, "max_epochs": 3}
    assert _settings.training_of({"max_epochs": None}) == {}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"n_layers": 3},
            "The configuration has 'n_layers', which is no setting; the settings are preset, n_la",
        ),
        ({"batch_size": 64.5}, "'batch_size' is 64.5; it must be a whole number of 1 or more."),
        ({"max_epochs": True}, "'max_epochs' is True; it must be a whole number"),
        ({"max_epochs": 0}, "'max_epochs' is 0; it must be a whole number"),
    ],
)
def test_what_no_training_knows_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        _settings.read(settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"n_latent": "many"}, "n_latent is 'many'; it must be a whole number"),
        ({"kl_weight": -1}, "kl_weight is -1"),
        ({"preset": "best"}, "preset is 'best'"),
    ],
)
def test_impossible_values_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        _settings.model_of(settings)


def test_files_that_hold_no_configuration(tmp_path):
    file = tmp_path / "c.json"
    with pytest.raises(
        FileNotFoundError, match=r"c.json' does not exist; name a file such as the best.json of 'diffvae tune'"
    ):
        _settings.read(file)
    for text, sentence in (("{", "can't be read as a configuration in JSON"), ("[1]", "holds a list; a configuration")):
        file.write_text(text)
        with pytest.raises(ValueError, match=sentence):
            _settings.read(file)


def test_run_takes_it_and_its_own_arguments_go_first(tmp_path):
    cells = dv.datasets.simulate_differentiation(90, 60, tree={"stem": ["red", "white"]}, effect=2, rng=0)
    file = tmp_path / "best.json"
    file.write_text(json.dumps({"preset": "paper", "n_latent": 7, "hidden": [16], "lr": 1e-4, "max_epochs": 3}))
    given = {"n_clusters": 2, "cluster_method": "kmeans", "links": False, "progress": False}
    result = dv.pipeline.run(cells, config=file, n_latent=5, batch_size=40, **given)
    config = dv.model.DiffVAE("paper", n_latent=5, hidden=(16,), lr=1e-4).config
    assert result.model.config == config
    assert len(result.model.history) == 3
    parameters = result.summary["parameters"]
    expected = {"preset": "paper", "n_latent": 5, "lr": 1e-4, "max_epochs": 3, "batch_size": 40, "config": str(file)}
    assert {k: parameters[k] for k in expected} == expected
    with pytest.raises(ValueError, match="which is no setting"):
        dv.pipeline.run(cells, config={"seed": 3})
