"""Figures of a search."""

import numpy as np
import pandas as pd
import pytest
from _pl_data import assert_legible, shown_texts

import diffvae as dv
from diffvae.benchmark import Tuned


def tuned(values, *, again=((5.0, 4.0), (6.0, 4.5)), minimise=True, pruned=(), best=None, chosen=None):
    values = np.asarray(values, float)
    state = np.where(np.isin(np.arange(len(values)), pruned), "pruned", "complete")
    trials = pd.DataFrame({"trial": range(len(values)), "state": state, "value": values})
    trials["default"] = trials["trial"] == 0
    complete = trials.loc[trials["state"] == "complete", "value"]
    best = int(complete.idxmin() if minimise else complete.idxmax()) if best is None else best
    rows = [(name, n, i, v) for i, pair in enumerate(again) for name, n, v in zip(("default", "best"), (0, best), pair)]  # noqa: B905 - best may be missing
    confirmation = pd.DataFrame(rows, columns=["configuration", "trial", "repeat", "value"])
    summary = {
        "objective": {"label": "validation loss, nats per cell", "minimise": minimise},
        "best_trial": best,
        "chosen_trial": best if chosen is None else chosen,
    }
    return Tuned(trials, {}, {}, confirmation, None, summary)


def points(ax, marker):
    return [(x, y) for line in ax.lines if line.get_marker() == marker for x, y in zip(*line.get_data(), strict=True)]


def test_trials_in_their_order_and_the_best_so_far():
    ax = dv.pl.tuning(tuned([6, 7, 5, 9, 4], pruned=[3], again=()))
    assert points(ax, "^") == []
    assert points(ax, "D") == [(0, 6)]
    assert points(ax, "o") == [(1, 7), (2, 5), (4, 4)]
    assert points(ax, "x") == [(3, 9)]
    (line,) = [line for line in ax.lines if line.get_drawstyle() == "steps-post"]
    assert line.get_ydata().tolist() == [6, 6, 5, 4, 4]
    assert ax.get_ylabel().replace("\n", " ") == "validation loss, nats per cell"
    assert ax.get_title(loc="left") == "Trial 4 is the best of 5; not trained again"
    assert_legible(ax)


def test_default_and_best_again_are_joined_by_seed():
    ax = dv.pl.tuning(tuned([6, 7, 4]))
    joined = [
        np.asarray(line.get_ydata()).tolist()
        for line in ax.lines
        if len(line.get_xdata()) == 2 and line.get_color() == "#BDBDBD"
    ]
    assert [5.0, 4.0] in joined
    assert [6.0, 4.5] in joined
    assert {"default", "best"} <= {t.get_text() for t in ax.get_xticklabels()}
    assert ax.get_title(loc="left") == "Trial 2 beats the default with 2 of 2 other seeds"
    assert ax.get_xlabel() == "trial, and default and best with 2 other seeds"
    assert_legible(ax)
    lost = dv.pl.tuning(tuned([6, 7, 4], again=((5.0, 6.0), (6.0, 5.5)), chosen=0))
    assert lost.get_title(loc="left") == "Trial 2 beats the default with 1 of 2 other seeds: no gain"


def test_more_is_better():
    ax = dv.pl.tuning(tuned([0.3, 0.5, 0.4], minimise=False, again=((0.3, 0.5),)))
    (line,) = [line for line in ax.lines if line.get_drawstyle() == "steps-post"]
    assert line.get_ydata().tolist() == [0.3, 0.5, 0.5, 0.5]
    assert ax.get_title(loc="left") == "Trial 1 beats the default with 1 of 1 other seed"


def test_what_is_far_beyond_stands_at_the_edge():
    ax = dv.pl.tuning(tuned([6, 7, 5, 5.5, 4, 900], again=()))
    assert ax.get_ylim()[1] < 20
    ((x, y),) = points(ax, "^")
    assert x == 5
    assert y <= ax.get_ylim()[1]
    assert (5, 900) not in points(ax, "o")


@pytest.mark.parametrize("n", [1, 200])
def test_any_number_of_trials_is_legible(n):
    rng = np.random.default_rng(n)
    assert_legible(dv.pl.tuning(tuned(rng.normal(230, 1, n), again=((230, 229), (231, 230), (230, 230.5)))))


def test_the_default_is_best():
    ax = dv.pl.tuning(tuned([1, 2, 3], again=((1.0,), (1.1,))))
    assert ax.get_title(loc="left") == "None of 3 trials beats the default"
    assert "best" not in {t.get_text() for t in ax.get_xticklabels()}


def shares(own, chance):
    names = ["lr", "batch_size", "hidden", "epochs"][: len(own)]
    return pd.DataFrame({"parameter": names, "importance": own, "chance": 0.1, "chance_95": chance, "n_trials": 20})


def test_importance_beside_chance():
    ax = dv.pl.importance(shares([0.7, 0.2, 0.06, 0.04], [0.5, 0.3, 0.2, 0.1]))
    assert [t.get_text() for t in ax.get_yticklabels()] == ["learning rate", "batch size", "hidden widths", "epochs"]
    assert [round(bar.get_width(), 2) for bar in ax.patches] == [0.7, 0.2, 0.06, 0.04]
    assert len({bar.get_facecolor() for bar in ax.patches}) == 2
    assert ax.get_title(loc="left") == "Beyond chance in 20 trials: learning rate"
    assert [line.get_xdata()[0] for line in ax.lines] == [0.5, 0.3, 0.2, 0.1]
    assert_legible(ax)
    ax = dv.pl.importance(shares([0.4, 0.3], [0.5, 0.5]))
    assert ax.get_title(loc="left") == "Beyond chance in 20 trials: no parameter"
    assert any("chance" in t.get_text() for t in shown_texts(ax))


def test_errors_are_sentences():
    with pytest.raises(ValueError, match="no column 'chance_95'"):
        dv.pl.importance(pd.DataFrame({"parameter": [], "importance": [], "n_trials": []}))
