"""Every training of each method, and how far one method is from the others."""

import numpy as np
import pytest
from _comparison_data import comparison
from _pl_data import assert_legible, name_of
from matplotlib.colors import to_hex
from matplotlib.markers import CARETLEFT, CARETRIGHT

import diffvae as dv
from diffvae import benchmark
from diffvae.pl._style import CATEGORIES, colours

ONE = {"n_latent": (50,), "clusterers": (("kmeans", True),), "spaces": ("latent",), "n_clusterings": 2}
SETS = ("paul15", "pancreas_endocrinogenesis", "baron_mouse_pancreas", "pbmc3k", "hsmm_myoblast", "tree 1", "tree 2",
        "tree 3")  # fmt: skip
SIX = {"DiffVAE": 0.60, "DiffVAE (paper)": 0.50, "VAE": 0.55, "AE": 0.5, "PCA": 0.7, "scVI": 0.6}


def title(ax):
    return ax.get_title(loc="left").replace("\n", " ")


def marks(ax, marker):
    """Return colour and places of everything that is drawn with a marker."""
    found = [line for line in ax.lines if line.get_marker() == marker]
    return [(to_hex(line.get_markerfacecolor()), line.get_xdata(), line.get_ydata()) for line in found]


def differences(runs, reference="DiffVAE", metric="ari"):
    of = [benchmark.compare(runs, reference, metric, n_bootstrap=200, per_dataset=p) for p in (False, True)]
    return of[0], of[1]


def test_a_dot_is_a_training_and_a_bar_their_mean():
    runs = comparison({"DiffVAE": 0.6, "PCA": 0.4}, **ONE).table
    ax = dv.pl.method_scores(runs)
    of = runs.groupby(["method", "seed"])["ari"].mean()  # clusterings are no dots of their own
    dots, bars = marks(ax, "o"), marks(ax, "|")
    for (colour, x, y), (_, mean, _), (i, method) in zip(dots, bars, enumerate(("DiffVAE", "PCA")), strict=True):
        np.testing.assert_allclose(x, of[method])
        assert set(y) == {i}
        assert colour == colours(["DiffVAE", "PCA"])[method]
        assert mean == pytest.approx(of[method].mean())
    assert [t.get_text() for t in ax.get_yticklabels()] == ["DiffVAE", "PCA"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # from the top down
    assert title(ax) == f"DiffVAE has the highest mean: {of['DiffVAE'].mean():.3f}"
    assert ax.get_xlabel().split("\n")[1] == "k-means, k given, on the latent, 50 dimensions"
    assert_legible(ax)


def test_data_sets_are_groups_and_the_title_counts():
    levels = {"DiffVAE": {"a": 0.7, "b": 0.2, "c": 0.8}, "PCA": 0.5}
    ax = dv.pl.method_scores(comparison(levels, datasets=("a", "b", "c"), **ONE).table)
    assert title(ax) == "Highest mean: DiffVAE in 2, PCA in 1 of 3 data sets"
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["DiffVAE", "PCA"]
    rows = [y[0] for _, _, y in marks(ax, "o")]
    assert rows == [0, 1, 3, 4, 6, 7]


def test_of_seconds_the_lowest():
    ax = dv.pl.method_scores(comparison({"DiffVAE": 0.6, "PCA": 0.4}, **ONE).table, "training_seconds")
    assert title(ax) == "PCA has the lowest mean: 12.000"
    assert ax.get_xlabel() == "seconds of a training, each training; bars: means\n50 dimensions"


def test_a_method_that_a_data_set_lacks_leaves_its_row_empty():
    runs = comparison({"DiffVAE": 0.6, "PCA": 0.4}, datasets=("a", "b"), **ONE).table
    runs = runs[(runs["dataset"] == "a") | (runs["method"] == "DiffVAE")]
    assert [y[0] for _, _, y in marks(dv.pl.method_scores(runs), "o")] == [0, 1, 3]


@pytest.mark.parametrize(
    ("change", "metric", "message"),
    [
        ({"n_latent": (20, 50)}, "ari", r"n_latent \(20, 50\), and adjusted Rand index depends on it; select one"),
        ({"spaces": ("latent", "tsne")}, "knn_purity", r"space \(latent, tsne\), and kNN purity depends on it"),
        ({}, "purity", "table has no purity"),
    ],
)
def test_runs_of_several_settings_are_not_mixed(change, metric, message):
    with pytest.raises(ValueError, match=message):
        dv.pl.method_scores(comparison(**ONE | change).table, metric)


def test_a_measure_is_drawn_of_all_settings_on_which_it_does_not_depend():
    runs = comparison(**ONE | {"spaces": ("latent", "tsne")}).table
    assert len(marks(dv.pl.method_scores(runs, "mig"), "o")[0][1]) == 5


# Differences


def test_differences_have_their_intervals_and_say_who_is_better():
    levels = {"DiffVAE": 0.5, "worse": 0.3, "better": 0.7, "again": 0.5}
    paired, _ = differences(comparison(levels, **ONE).table)
    ax = dv.pl.method_differences(paired)
    faces = [colour for colour, _, _ in marks(ax, "D")]
    assert faces == [to_hex(CATEGORIES[0]), to_hex(CATEGORIES[5]), "#ffffff"]  # also by shape: open is unsure
    np.testing.assert_allclose([x[0] for _, x, _ in marks(ax, "D")], paired["difference"])
    spans = [tuple(line.get_xdata()) for line in ax.lines if line.get_linewidth() == 2.4]
    np.testing.assert_allclose(spans, paired[["low", "high"]])
    assert title(ax) == "DiffVAE is better than worse, is worse than better, does not differ clearly from again"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "better: interval without zero", "worse: interval without zero", "interval with zero",
    ]  # fmt: skip
    assert any(list(line.get_xdata()) == [0, 0] for line in ax.lines)
    assert_legible(ax)


def test_data_sets_are_dots_and_are_counted():
    levels = {"DiffVAE": 0.5, "PCA": {"a": 0.3, "b": 0.2, "c": 0.9}}
    paired, sets = differences(comparison(levels, datasets=("a", "b", "c"), **ONE).table)
    ax = dv.pl.method_differences(paired, sets)
    (dots,) = marks(ax, "o")
    np.testing.assert_allclose(dots[1], sets["difference"])
    assert "2 / 0 / 1" in [t.get_text() for t in ax.texts]
    assert title(ax) == "DiffVAE does not differ clearly from PCA"
    assert not marks(dv.pl.method_differences(paired), "o")


def test_of_seconds_fewer_are_better():
    paired, _ = differences(comparison({"DiffVAE": 0.5, "AE": 0.5}, **ONE).table, metric="training_seconds")
    assert paired["difference"].iloc[0] > 0
    assert title(dv.pl.method_differences(paired)) == "DiffVAE is worse than AE"


def test_a_single_pair_has_no_interval():
    paired, _ = differences(comparison({"DiffVAE": 0.5, "AE": 0.4}, n_trainings=1, **ONE).table)
    ax = dv.pl.method_differences(paired)
    assert title(ax) == "DiffVAE does not differ clearly from AE"
    assert_legible(ax)


def test_an_interval_much_wider_than_the_differences_ends_in_arrows():
    levels = {"DiffVAE": 0.5, "PCA": {"a": 0.49, "b": 0.3}}
    paired, sets = differences(comparison(levels, datasets=("a", "b"), **ONE).table)
    ax = dv.pl.method_differences(paired, sets)
    reach = 3 * sets["difference"].abs().max()
    assert paired["high"].iloc[0] > reach
    assert ax.get_xlim() == pytest.approx((-reach, reach))
    assert [x[0] for _, x, _ in marks(ax, CARETLEFT)] == pytest.approx([-reach])
    assert marks(ax, CARETRIGHT)
    assert_legible(ax)
    paired, _ = differences(comparison({"DiffVAE": 0.5, "PCA": 0.2}, **ONE).table)
    assert not marks(dv.pl.method_differences(paired), CARETRIGHT)


def test_what_has_several_rows_or_none_is_refused():
    paired, _ = differences(comparison(**ONE | {"n_latent": (20, 50)}).table)
    with pytest.raises(ValueError, match="paired has 2 rows of 'VAE'; select one metric and setting"):
        dv.pl.method_differences(paired)
    with pytest.raises(ValueError, match="paired has no method with a pair"):
        dv.pl.method_differences(paired.assign(n_pairs=0))


# Both


@pytest.mark.parametrize(("datasets", "long"), [(("tree",), True), (SETS, True)])
def test_everything_is_legible(datasets, long):
    levels = {name_of(i): level for i, level in enumerate(SIX.values())} if long else SIX
    names = tuple(f"{name} {name_of(i)}" for i, name in enumerate(datasets)) if long else datasets
    runs = comparison(levels, datasets=names, **ONE).table
    assert_legible(dv.pl.method_scores(runs))
    assert_legible(dv.pl.method_differences(*differences(runs, next(iter(levels)))))


def test_dollars_are_no_mathematics():
    runs = comparison({"DiffVAE": 0.6, "$x$": 0.5}, datasets=("$a$", "b"), **ONE).table
    assert_legible(dv.pl.method_scores(runs))
    ax = dv.pl.method_differences(*differences(runs, "$x$"))
    assert r"\$x\$ minus the other method" in ax.get_xlabel()
    assert_legible(ax)


def test_a_title_names_three_methods_and_counts_the_others():
    levels = {name: {f"s{d}": 0.9 if d == i else 0.2 for d in range(5)} for i, name in enumerate("vwxyz")}
    ax = dv.pl.method_scores(comparison(levels, datasets=[f"s{d}" for d in range(5)], **ONE).table)
    assert title(ax) == "Highest mean: v in 1, w in 1, x in 1, others in 2 of 5 data sets"
