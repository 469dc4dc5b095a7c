"""A search of hyper-parameters: its space, its trials in one or several processes, and its verdict."""

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import cache

import numpy as np
import optuna
import pandas as pd
import pytest

import diffvae as dv
from diffvae import _keys, _random
from diffvae.benchmark.tuning import _search, _tune
from diffvae.benchmark.tuning._objective import CONFIRMATION, Evaluator
from diffvae.benchmark.tuning._space import importance, make_space
from diffvae.model import _config
from diffvae.pipeline import _settings
from diffvae.train import Epoch, TrainingError

PARAMETERS = ["hidden", "n_latent", "lr", "batch_size"]


@cache
def _cells():
    return dv.datasets.simulate_differentiation(60, 40, tree={"stem": ["red", "white"]}, effect=2, rng=0)


def cells():
    return _cells().copy()


def tune(**kwargs):
    options = {"n_trials": 3, "n_repeats": 0, "max_epochs": 1, "progress": False, "device": "cpu"}
    return dv.benchmark.tune(cells(), **options | {"precision": "float32"} | kwargs)


def loss_of(settings):
    """A value for each point of the paper's grid: lowest for a learning rate of 1e-2 and small batches."""
    return abs(math.log10(settings["lr"]) + 2) + settings["batch_size"] / 1000 + settings["n_latent"] / 1e5


@pytest.fixture
def judged(monkeypatch):
    """Score settings by a formula instead of training them; gives the list of scored settings."""
    scored = []

    def score(self, adata, settings, rng, on_epoch=None):
        scored.append((settings, rng))
        return loss_of(settings), {"validation_nll": 1.0}

    monkeypatch.setattr(Evaluator, "score", score)
    return scored


def same(one, other):
    """Compare trials without their time."""
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), other.drop(columns="seconds"))


# The space


def test_the_papers_grid_has_each_point_once_and_the_default_first():
    space = make_space("paper", "paper", None)
    order = space.order(0)
    assert order[0] == space.default == {"hidden": "512-256", "n_latent": 50, "lr": 1e-3, "batch_size": 128}
    assert len(order) == len({tuple(p.values()) for p in order}) == 2 * 2 * 3 * 3
    assert order != space.order(1)
    for few in (order[:3], order[:9]):  # every value occurs early, and equally often
        counts = [pd.Series([p[name] for p in few]).value_counts() for name in space.parameters]
        assert [len(c) for c in counts] == [2, 2, 3, 3]
        assert all(c.max() - c.min() <= 1 for c in counts)
    assert order[0] == space.order(1)[0]


def test_the_values_of_a_preset_are_added_to_the_grid(monkeypatch):
    monkeypatch.setattr(_config, "PRESETS", {"slow": {"lr": 3e-5, "n_latent": 20}})
    order = make_space("paper", "slow", None).order(0)
    assert order[0] == {"hidden": "512-256", "n_latent": 20, "lr": 3e-5, "batch_size": 128}
    assert len(order) == 2 * 3 * 4 * 3


def test_points_are_configurations_that_run_takes():
    for name in ("paper", "wide"):
        space = make_space(name, "default", None)
        model = _settings.model_of(_settings.read(space.settings(space.default, 5000)))
        assert model.config == dv.model.DiffVAE().config
        assert space.n_epochs(space.default, 5000) == 100
    assert "epochs" not in space.parameters  # the default stops by itself
    space = make_space("wide", "paper", None)
    doubled = space.default | {"epochs": 2.0, "hidden": "128"}
    assert space.settings(doubled, 5000)["max_epochs"] == 200 == space.n_epochs(doubled, 5000)
    assert space.settings(doubled, 5000)["hidden"] == [128]
    assert space.order(0) is None
    fixed = make_space("wide", "paper", 7)
    assert "epochs" not in fixed.parameters
    assert fixed.settings(fixed.default, 217)["max_epochs"] == 7


@pytest.mark.parametrize("preset", ["default", "paper", "code"])
@pytest.mark.parametrize("name", ["paper", "wide"])
def test_every_preset_is_a_point_of_its_space(name, preset):
    space = make_space(name, preset, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # optuna warns of a value outside its range
        assert space.suggest(optuna.trial.FixedTrial(space.default)) == space.default


# The search


def test_the_default_is_first_and_each_trial_has_its_seed(judged):
    tuned = tune(n_trials=5, rng=3)
    trials = tuned.trials
    assert trials["trial"].tolist() == [0, 1, 2, 3, 4]
    assert trials["default"].tolist() == [True] + 4 * [False]
    assert trials["state"].tolist() == 5 * ["complete"]
    assert trials.loc[0, PARAMETERS].to_dict() == make_space("paper", "default", None).default
    assert [rng for _, rng in judged] == [_random.seed(3, "trial", str(i)) for i in range(5)]
    assert trials["value"].tolist() == [loss_of(settings) for settings, _ in judged]
    assert tuned.summary["best_trial"] == trials["value"].idxmin()
    assert tuned.best == judged[tuned.summary["best_trial"]][0]
    assert tuned.path is None
    same(trials, tune(n_trials=5, rng=3).trials)
    assert not trials["lr"].equals(tune(n_trials=5, rng=4).trials["lr"])


def test_the_grid_ends_after_all_its_points(judged):
    tuned = tune(n_trials=100, preset="paper")
    assert len(tuned.trials) == 36
    values = {"n_latent": 50, "lr": 1e-2, "batch_size": 64}
    assert tuned.best == {"preset": "paper", "hidden": tuned.best["hidden"], "max_epochs": 1} | values
    assert tune(n_trials=7).importance is None
    table = tuned.importance
    assert table["parameter"].iloc[0] == "lr"
    assert table["n_trials"].eq(36).all()
    sure = table.loc[table["importance"] > table["chance_95"], "parameter"]
    assert "lr" in set(sure)
    assert "hidden" not in set(sure)
    assert table["importance"].sum() == pytest.approx(1)


def test_proposals_in_the_wide_space_depend_on_earlier_trials(monkeypatch):
    def search(best_lr):
        def score(self, adata, settings, rng, on_epoch=None):
            return abs(math.log10(settings["lr"]) - best_lr), {}

        monkeypatch.setattr(Evaluator, "score", score)
        return tune(n_trials=12, space="wide", objective="elbo", rng=1).trials

    trials, others = search(-4), search(-2)
    assert trials["default"].sum() == 1
    assert not trials.duplicated(PARAMETERS).any()
    assert trials["lr"][:10].equals(others["lr"][:10])  # the first are random
    assert not set(trials["lr"][10:]) & set(others["lr"][10:])


@pytest.mark.parametrize("options", [{}, {"space": "wide", "objective": "elbo"}])
def test_an_interrupted_trial_runs_again_and_no_other(judged, tmp_path, options):
    whole = tune(n_trials=6, **options)
    judged.clear()
    real = Evaluator.score

    def interrupt(self, adata, settings, rng, on_epoch=None):
        if rng == _random.seed(0, "trial", "3"):
            raise KeyboardInterrupt
        return real(self, adata, settings, rng)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "score", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tune(n_trials=6, out=tmp_path, **options)
    assert len(judged) == len(pd.read_csv(tmp_path / "trials.csv")) == 3
    again = tune(n_trials=6, out=tmp_path, **options)
    assert len(judged) == 6
    same(again.trials, whole.trials)
    assert tune(n_trials=6, out=tmp_path, **options).best == whole.best
    assert len(judged) == 6  # no trial was left
    assert tune(n_trials=7, out=tmp_path, **options).trials["trial"].tolist() == list(range(7))


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_benchmark_tune import Evaluator, _search, loss_of, tune
out, kind = Path(sys.argv[2]), sys.argv[3]
_search.HEARTBEAT, _search.GRACE = 1, 5
def score(self, adata, settings, rng, on_epoch=None):
    Path(f"{out}.{kind}").touch()
    time.sleep(60 if kind == "hang" else 1)
    return loss_of(settings), {"validation_nll": 1.0}
Evaluator.score = score
tune(n_trials=7, out=out)
"""


def other_process(out, kind):
    """Start the same search in another process, and wait until it has started a trial."""
    here = os.path.dirname(__file__)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, here, str(out), kind])
    mark = out.with_name(f"{out.name}.{kind}")
    limit = time.monotonic() + 300
    while not mark.exists():
        assert process.poll() is None, "the other process has ended"
        assert time.monotonic() < limit
        time.sleep(0.02)
    return process


@pytest.mark.slow
def test_processes_share_the_trials_and_that_of_a_killed_one_runs_again(monkeypatch, judged, tmp_path):
    monkeypatch.setattr(_search, "HEARTBEAT", 1)
    monkeypatch.setattr(_search, "GRACE", 5)
    whole = tune(n_trials=7)
    out = tmp_path / "shared"
    hanging = other_process(out, "hang")
    tuned = tune(n_trials=3, out=out)
    assert tuned.trials["state"].tolist() == ["running", "complete", "complete"]  # a heartbeat protects a trial
    assert "1 of them have not finished" in tuned.summary["verdict"][0]
    os.kill(hanging.pid, signal.SIGKILL)
    hanging.wait()
    time.sleep(6)
    helper = other_process(out, "help")
    scored = []

    def slow(self, adata, settings, rng, on_epoch=None):
        scored.append(settings)
        time.sleep(0.3)
        return loss_of(settings), {"validation_nll": 1.0}

    monkeypatch.setattr(Evaluator, "score", slow)
    tune(n_trials=7, out=out)
    assert helper.wait(300) == 0
    same(tune(n_trials=7, out=out).trials, whole.trials)
    assert 0 < len(scored) < 5
    states = [t.state.name for t in optuna.load_study(study_name="diffvae", storage=f"sqlite:///{out}/study.db").trials]
    assert states == ["FAIL"] + 7 * ["COMPLETE"]


def test_a_trial_that_another_process_took_over_is_left_to_it(judged, tmp_path, monkeypatch):
    whole = tune(n_trials=3)
    real = Evaluator.score

    def suspended(self, adata, settings, rng, on_epoch=None):
        monkeypatch.setattr(Evaluator, "score", real)
        study = optuna.load_study(study_name="diffvae", storage=f"sqlite:///{tmp_path}/study.db")
        study.tell(0, state=optuna.trial.TrialState.FAIL)
        _search.RetryHeartbeatStaleTrialCallback()(study, study.trials[0])
        return -1.0, {"validation_nll": 1.0}

    monkeypatch.setattr(Evaluator, "score", suspended)
    same(tune(n_trials=3, out=tmp_path).trials, whole.trials)


def of_curve(curve):
    """Score by a curve of losses over five epochs, and report them."""

    def score(self, adata, settings, rng, on_epoch=None):
        values = curve(settings)
        for number, value in enumerate(values, start=1):
            on_epoch(Epoch(number, {"validation_loss": value}, None, None))
        return values[-1], {"validation_loss": values[-1]}

    return score


def test_bad_trials_are_pruned_and_the_default_never(monkeypatch):
    def curve(settings):
        slow = settings["lr"] < 5e-4
        return [9.0, 8.0, 7.0, 6.0, 1.0 if slow else 5.0] if slow else [9.0 - 4 * (settings["lr"] == 1e-3)] * 5

    monkeypatch.setattr(Evaluator, "score", of_curve(curve))
    tuned = tune(n_trials=24, max_epochs=5)
    trials = tuned.trials.set_index("trial")
    assert trials.loc[0, "state"] == "complete"
    pruned = trials[trials["state"] == "pruned"]
    assert len(pruned) > 3
    assert (trials["state"][:5] == "complete").all()  # nothing to compare with yet
    assert pruned["value"].notna().all()
    assert f"{len(pruned)} of 24 trials were stopped early" in " ".join(tuned.summary["verdict"])
    assert tune(n_trials=12, max_epochs=5, pruning=False).trials["state"].eq("complete").all()


def test_checkpoints_are_shares_of_the_epochs_of_a_trial():
    study = optuna.create_study()
    for n_epochs, expected in ((7, 7), (100, 20), (1000, 20)):
        trial = study.ask()
        on_epoch = _search.checkpoints(trial, lambda record: record["loss"], n_epochs, prune=False)
        for number in range(1, n_epochs + 1):
            on_epoch(Epoch(number, {"loss": float(number)}, None, None))
        reported = study.get_trials()[-1].intermediate_values
        assert len(reported) == expected
        assert reported[20] == n_epochs


def test_diverged_trials_are_reported(monkeypatch):
    def score(self, adata, settings, rng, on_epoch=None):
        if settings["lr"] == 1e-2 and settings["n_latent"] == 50:
            raise TrainingError("At epoch 1 train loss is nan.")
        return (loss_of(settings) if settings["lr"] < 1e-2 else math.nan), {}

    monkeypatch.setattr(Evaluator, "score", score)
    tuned = tune(n_trials=12)
    lost = tuned.trials["lr"] == 1e-2
    assert lost.any()
    assert (tuned.trials.loc[lost, "state"] == "diverged").all()
    assert tuned.trials.loc[lost, "value"].isna().all()
    assert f"{lost.sum()} of 12 trials diverged." in tuned.summary["verdict"]
    monkeypatch.setattr(Evaluator, "score", lambda *args: (_ for _ in ()).throw(TrainingError("no")))
    with pytest.raises(ValueError, match=r"No trial is complete yet \(2 diverged\)"):
        tune(n_trials=2)


def test_no_trial_starts_after_the_timeout(judged):
    with pytest.raises(ValueError, match=r"No trial is complete yet \(none started\)"):
        tune(timeout=0)


# The gain


def test_default_and_best_are_trained_again_on_other_cells(monkeypatch, tmp_path):
    seen = []

    def score(self, adata, settings, rng, on_epoch=None):
        held = frozenset(adata.obs_names[adata.obs[_keys.SPLIT] == "validation"])
        seen.append((settings["lr"], settings["batch_size"], rng, held))
        return loss_of(settings), {}

    monkeypatch.setattr(Evaluator, "score", score)
    tuned = tune(n_trials=6, n_repeats=2, out=tmp_path)
    best = tuned.summary["best_trial"]
    assert best > 0
    table = tuned.confirmation
    assert table[["configuration", "trial", "repeat"]].to_numpy().tolist() == [
        ["default", 0, 0], ["best", best, 0], ["default", 0, 1], ["best", best, 1],
    ]  # fmt: skip
    search, again = seen[:6], seen[6:]
    assert len({held for *_, held in search}) == 1
    assert len({held for *_, held in seen}) == 3  # one split per repeat, and that of the search
    assert again[0][2:] == again[1][2:] != again[2][2:] == again[3][2:]  # seeds and splits are paired
    assert not {rng for *_, rng, _ in search} & {rng for *_, rng, _ in again}
    tune(n_trials=6, n_repeats=2, out=tmp_path)
    assert len(seen) == 10  # kept in the study
    tune(n_trials=6, n_repeats=3, out=tmp_path)
    assert len(seen) == 12


def again(default, best):
    rows = [("default", 0, i, v) for i, v in enumerate(default)] + [("best", 4, i, v) for i, v in enumerate(best)]
    return pd.DataFrame(rows, columns=CONFIRMATION)


@pytest.mark.parametrize(
    ("objective", "default", "best", "gained", "sentence"),
    [
        ("elbo", [3, 5, 4], [2, 4, 3.5], True, "3.167 ± 1, the default 4 ± 1: better by 0.833 on average, in 3 of 3."),
        ("validation_loss", [3, 5, 4], [4, 4, 5], False, "no gain, so the default is kept."),
        ("ari", [0.3, 0.5], [0.5, 0.4], True, "better by 0.05 on average, in 1 of 2."),
        ("ari", [0.3, 0.5], [0.3, 0.4], False, "no gain, so the default is kept."),
        ("elbo", [np.nan, 5], [4, 4], True, "the default 5, which diverged in 1 of 2."),
        ("elbo", [5, 5], [4, np.nan], False, "no gain, so the default is kept."),
    ],
)  # fmt: skip
def test_the_verdict_distinguishes_gain_from_luck(objective, default, best, gained, sentence):
    table = again(default, best)
    assert _tune.gained(table, objective) is gained
    trials = pd.DataFrame({"trial": range(5), "value": [5.0, 4, 3, 2, 1], "state": "complete"})
    verdict = _tune.verdict(trials, table, objective, 4)
    assert verdict.startswith("Trial 4 is the best of 5 by ")
    assert verdict.endswith(sentence)


def test_the_default_is_kept_without_a_gain(monkeypatch, tmp_path):
    def score(self, adata, settings, rng, on_epoch=None):
        lucky = rng == _random.seed(0, "trial", "2")
        return (0.0 if lucky else 1.0), {}

    monkeypatch.setattr(Evaluator, "score", score)
    tuned = tune(n_trials=3, n_repeats=2, out=tmp_path)
    assert (tuned.summary["best_trial"], tuned.summary["chosen_trial"]) == (2, 0)
    assert tuned.best == tuned.default == json.loads((tmp_path / "best.json").read_text())
    assert dv.pl.tuning(tuned).get_title(loc="left") == "Trial 2 beats the default with 0 of 2 other seeds: no gain"
    unsure = tune(n_trials=3, n_repeats=0)
    assert unsure.summary["chosen_trial"] == 2
    assert unsure.summary["verdict"][0].endswith("it was not trained again, so the value may be due to chance.")


def test_no_trial_is_better_than_the_default(monkeypatch):
    monkeypatch.setattr(Evaluator, "score", lambda self, adata, settings, rng, on_epoch=None: (1.0 + 0 * rng, {}))
    tuned = tune(n_trials=3, n_repeats=2)
    assert tuned.confirmation["configuration"].tolist() == ["default", "default"]
    assert tuned.summary["verdict"] == [
        "No trial of 3 is better than the default by validation loss; trained again with 2 other seeds the default has "
        "1 ± 0."
    ]
    assert dv.pl.tuning(tuned).get_title(loc="left") == "None of 3 trials beats the default"


# The whole search, trained


def test_a_search_writes_what_run_takes(tmp_path):
    out = tmp_path / "tune"
    steps = []
    tuned = tune(n_trials=8, n_repeats=1, out=out, on_step=steps.append)
    assert sorted(p.name for p in out.iterdir()) == [
        "best.json", "confirmation.csv", "figures", "importance.csv", "study.db", "summary.json", "trials.csv",
    ]  # fmt: skip
    assert sorted(p.name for p in (out / "figures").iterdir()) == [
        "importance.png", "importance.svg", "trials.png", "trials.svg",
    ]  # fmt: skip
    table = pd.read_csv(out / "trials.csv")
    pd.testing.assert_frame_equal(table, tuned.trials, check_dtype=False)
    complete = table[table["state"] == "complete"]
    np.testing.assert_allclose(complete["value"], complete["validation_loss"])
    assert steps == ["check and prepare", "trials", "train default and best again", "importance", "write"]
    summary = json.loads((out / "summary.json").read_text())
    assert {"diffvae", "optuna"} <= set(summary["versions"])
    model = _settings.model_of(_settings.read(out / "best.json"))
    chosen = tuned.trials.set_index("trial").loc[tuned.summary["chosen_trial"]]
    assert "-".join(map(str, model.config.hidden)) == chosen["hidden"]
    assert (model.config.lr, model.n_latent) == (chosen["lr"], chosen["n_latent"])


@pytest.mark.parametrize("objective", ["stability", "ari"])
def test_objectives_of_clusters(objective):
    labels = {"label_key": "cell_type"} if objective == "ari" else {}
    tuned = tune(n_trials=2, objective=objective, **labels)
    assert tuned.summary["objective"]["minimise"] is False
    assert tuned.summary["best_trial"] == tuned.trials["value"].idxmax()
    verdict = " ".join(tuned.summary["verdict"])
    if objective == "ari":
        assert tuned.summary["study"]["n_clusters"] == 3
        assert "obs['cell_type'] chose the trial" in verdict
        assert "must not be reported as" in verdict
    else:
        assert tuned.summary["study"]["n_trainings"] == 3
        assert {"stability", "null_stability", "largest_cluster", "active_dimensions"} <= set(tuned.trials)
        k = tuned.summary["study"]["n_clusters"]
        assert f"Stability is that of {k} k-means clusters in all trials" in verdict


def test_the_elbo_does_not_compare_weights(judged):
    for space, warned in (("wide", True), ("paper", False)):
        verdict = " ".join(tune(n_trials=2, space=space, objective="elbo").summary["verdict"])
        assert ("is no evidence on clusters or dimensions" in verdict) is warned


def test_a_database_holds_several_studies(judged, tmp_path):
    file = tmp_path / "deep" / "tune.db"
    one = tune(n_trials=2, storage=file)
    tune(n_trials=2, storage=f"sqlite:///{file}", study="another", objective="elbo")
    assert sorted(optuna.get_all_study_names(f"sqlite:///{file}")) == ["another", "diffvae"]
    assert len(judged) == 4
    same(tune(n_trials=2, storage=file).trials, one.trials)
    assert len(judged) == 4


# What is refused


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"space": "wide"}, "Validation losses with different weights of KL and MMD are different measures"),
        ({"space": "huge"}, "space is 'huge'; it must be 'paper' or 'wide'"),
        ({"objective": "loss"}, "objective is 'loss'; it must be 'validation_loss', 'elbo', 'stability' or 'ari'"),
        ({"preset": "none"}, "preset is 'none'"),
        ({"objective": "ari"}, "objective='ari' needs labels"),
        ({"label_key": "cell_type"}, "objective='validation_loss' uses no labels"),
        ({"objective": "ari", "label_key": "age"}, r"obs\['age'\] is missing"),
        ({"n_clusters": 3}, "n_clusters is 3, but objective='validation_loss' uses no clusters"),
        ({"objective": "stability", "n_clusters": 1}, "n_clusters is 1; it must be None or a whole number"),
        ({"objective": "stability", "n_clusters": 61}, "n_clusters is 61, but there are 60 cells"),
        ({"objective": "stability", "n_trainings": 1}, "n_trainings is 1, but objective='stability'"),
        ({"n_trials": 0}, "n_trials is 0; it must be a whole number of 1 or more"),
        ({"n_repeats": -1}, "n_repeats is -1; it must be a whole number of 0 or more"),
        ({"storage": "nonsense://somewhere"}, "The storage 'nonsense://somewhere' can't be opened"),
    ],
)  # fmt: skip
def test_errors_are_sentences(options, sentence, judged, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        tune(**options)
    assert judged == []


def test_other_settings_and_other_folders_are_refused(judged, tmp_path, monkeypatch):
    tune(n_trials=2, out=tmp_path / "a")
    with pytest.raises(ValueError, match=r"started with other settings \(seed was 0, now 1\)"):
        tune(n_trials=2, out=tmp_path / "a", rng=1)
    with pytest.raises(ValueError, match="objective was 'validation_loss', now 'elbo'"):
        tune(n_trials=2, out=tmp_path / "a", objective="elbo")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="has content other than a search"):
        tune(out=tmp_path / "b")
    with pytest.raises(ValueError, match="is a file"):
        tune(out=tmp_path / "b" / "mine.txt")
    changed = {"default": dict(_config.PRESETS["default"]) | {"kl_weight": 7.0}}
    monkeypatch.setattr(_config, "PRESETS", changed)
    with pytest.raises(ValueError, match=r"started with other settings \(kl_weight was [\d.]+, now 7\.0\)"):
        tune(n_trials=2, out=tmp_path / "a")
    assert len(judged) == 2


def test_without_optuna_the_error_says_how_to_install_it(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "optuna" else real(name, *a))
    with pytest.raises(ImportError, match=r'pip install "diffvae\[tune\]"'):
        tune()


def test_optuna_is_quiet_and_its_log_level_restored(judged):
    before = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("error", optuna.exceptions.ExperimentalWarning)
        tune(n_trials=1)
    assert optuna.logging.get_verbosity() == before


def test_random_values_show_no_importance_beyond_chance():
    space = make_space("paper", "paper", None)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    values = np.random.default_rng(0).normal(size=30)
    for value in values:
        trial = study.ask()
        space.suggest(trial)
        study.tell(trial, value)
    table = importance(study, list(space.parameters), 0)
    assert (table["importance"] < table["chance_95"]).all()
    assert (table["chance"] < table["chance_95"]).all()
    assert table["chance"].sum() == pytest.approx(1)


def test_batches_that_cannot_be_trained_on_are_refused_before_cells_are_prepared(tmp_path, monkeypatch):
    monkeypatch.setattr(_tune.pp, "prepare", lambda *args, **kwargs: pytest.fail("the cells were prepared"))
    adata = cells()
    adata.obs["batch"] = ["a"] * 58 + ["b"] * 2
    with pytest.raises(ValueError, match="is 'b' in only 2 cells"):
        dv.benchmark.tune(adata, batch_key="batch", n_trials=1, progress=False, out=tmp_path / "search")
    assert not (tmp_path / "search").exists()
