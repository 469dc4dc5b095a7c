"""Spread, paired differences and who is best, on tables whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from _comparison_data import comparison

from diffvae import benchmark
from diffvae.benchmark._findings import leaders
from diffvae.benchmark._statistics import Bootstrap

SETTING = {"n_latent": 50, "space": "latent", "clusterer": "kmeans", "k_given": True}
KMEANS = {"n_latent": (50,), "clusterers": (("kmeans", True),), "spaces": ("latent",)}


def table(scores, *, metric="ari", **more):
    """Return rows of method -> data set -> seed -> clusterings."""
    rows = [
        {"dataset": d, "method": method, **SETTING, "seed": seed, "clustering_seed": i, metric: value, **more}
        for method, sets in scores.items()
        for d, seeds in sets.items()
        for seed, values in enumerate(seeds)
        for i, value in enumerate(np.atleast_1d(values))
    ]
    return pd.DataFrame(rows)


# Mean and spread


def test_the_two_parts_of_the_spread_are_apart():
    found = benchmark.summary(table({"PCA": {"a": [[0.5, 0.7], [0.3, 0.5], [0.4, 0.4]]}}))
    (row,) = found.to_dict("records")
    assert row["mean"] == pytest.approx((0.6 + 0.4 + 0.4) / 3)
    assert row["sd"] == pytest.approx(np.std([0.6, 0.4, 0.4], ddof=1))
    assert row["sd_clusterings"] == pytest.approx(np.sqrt((0.02 + 0.02 + 0) / 3))
    assert (row["n_trainings"], row["n_clusterings"]) == (3, 6)


def test_trainings_have_equal_weights_and_missing_values_are_left_out():
    found = benchmark.summary(table({"PCA": {"a": [[0.9, 0.9, 0.9, 0.9], [0.1]]}}))
    assert found["mean"].tolist() == [pytest.approx(0.5)]
    found = benchmark.summary(table({"PCA": {"a": [0.5, np.nan, 0.7]}}))
    assert found[["mean", "n_trainings"]].to_numpy().tolist() == [[pytest.approx(0.6), 2]]
    found = benchmark.summary(table({"PCA": {"a": [0.5]}}))
    assert found[["sd", "sd_clusterings"]].isna().all(axis=None)


def test_a_measure_has_rows_only_for_what_it_depends_on():
    runs = comparison(n_trainings=2, n_clusterings=1).table
    n_methods, n_latent, spaces = 4, 3, 2
    assert len(benchmark.summary(runs, "mig")) == n_methods * n_latent
    assert len(benchmark.summary(runs, "knn_purity")) == n_methods * n_latent * spaces
    assert len(benchmark.summary(runs, "ari")) == n_methods * n_latent * spaces * 5
    assert benchmark.summary(runs, "mig")["n_clusterings"].eq(2).all()  # a training has one value, not one per row


@pytest.mark.parametrize(("drop", "metric"), [("ari", "ari"), ("seed", "ari"), (None, "purity")])
def test_a_column_that_is_not_there_is_named(drop, metric):
    runs = table({"PCA": {"a": [0.5]}}).drop(columns=[drop] if drop else [])
    with pytest.raises(ValueError, match=f"has no {drop or metric}; it has the measures"):
        benchmark.summary(runs, metric)


# Paired differences


def test_differences_by_hand():
    runs = table(
        {
            "DiffVAE": {"a": [[0.5, 0.7], [0.8, 0.8], [0.7, 0.7]], "b": [[0.2, 0.2], [0.3, 0.3], [0.4, 0.4]]},
            "PCA": {"a": [[0.5, 0.5], [0.6, 0.6], [0.6, 0.6]], "b": [[0.3, 0.3], [0.4, 0.4], [0.5, 0.5]]},
        }
    )
    (row,) = benchmark.compare(runs).to_dict("records")
    of_a, of_b = np.mean([0.1, 0.2, 0.1]), -0.1
    assert row["difference"] == pytest.approx((of_a + of_b) / 2)
    assert row["reference_mean"] == pytest.approx((0.7 + 0.3) / 2)
    assert row["method_mean"] == pytest.approx((np.mean([0.5, 0.6, 0.6]) + 0.4) / 2)
    assert (row["wins"], row["ties"], row["losses"]) == (1, 0, 1)
    assert (row["n_datasets"], row["n_pairs"], row["n_dropped"]) == (2, 6, 0)
    assert row["resampled"] == "data sets, then trainings"
    sets = benchmark.compare(runs, per_dataset=True)
    assert sets[["dataset", "result", "resampled"]].to_numpy().tolist() == [
        ["a", "win", "trainings"], ["b", "loss", "trainings"],
    ]  # fmt: skip
    assert sets["difference"].tolist() == pytest.approx([of_a, of_b])
    assert sets.loc[1, ["low", "high"]].tolist() == pytest.approx([-0.1, -0.1])  # the same in every pair


def test_pairs_are_by_seed_not_by_place():
    runs = table({"DiffVAE": {"a": [0.1, 0.5, 0.9]}, "PCA": {"a": [0.0, 0.4, 0.8]}})
    shuffled = runs.sample(frac=1, random_state=1)
    (row,) = benchmark.compare(shuffled).to_dict("records")
    assert row["low"] == pytest.approx(0.1)
    assert row["high"] == pytest.approx(0.1)


def test_a_pair_without_a_partner_is_dropped_and_counted():
    runs = table({"DiffVAE": {"a": [0.6, 0.7, 0.8]}, "PCA": {"a": [0.5, np.nan], "b": [0.3]}})
    (row,) = benchmark.compare(runs).to_dict("records")
    assert row["difference"] == pytest.approx(0.1)
    assert (row["n_datasets"], row["n_pairs"], row["n_dropped"]) == (1, 1, 3)
    assert row["resampled"] == "nothing"
    assert np.isnan(row["low"])
    assert row["ties"] == 1


def test_methods_that_share_no_setting_have_no_difference():
    ours, theirs = table({"DiffVAE": {"a": [0.6, 0.7]}}), table({"PCA": {"a": [0.6, 0.7]}}).assign(n_latent=20)
    found = benchmark.compare(pd.concat([ours, theirs]))
    assert found["n_latent"].tolist() == [20, 50]
    assert found["n_pairs"].tolist() == [0, 0]
    assert found["n_dropped"].tolist() == [2, 2]
    assert found[["difference", "low", "high"]].isna().all(axis=None)
    assert found[["wins", "ties", "losses"]].to_numpy().sum() == 0


@pytest.mark.parametrize("datasets", [("a",), tuple("abcdef")])
def test_interval_covers_the_planted_difference_and_excludes_zero(datasets):
    runs = comparison({"DiffVAE": 0.6, "PCA": 0.4}, datasets=datasets, rng=3, **KMEANS).table
    (row,) = benchmark.compare(runs).to_dict("records")
    assert 0 < row["low"] < 0.2 < row["high"]
    assert row["wins"] == len(datasets)


def test_interval_of_methods_that_are_alike_includes_zero():
    runs = comparison({"DiffVAE": 0.5, "again": 0.5}, datasets=tuple("abcd"), **KMEANS).table
    (row,) = benchmark.compare(runs).to_dict("records")
    assert row["low"] < 0 < row["high"]
    assert row["wins"] + row["losses"] <= 1
    same = pd.concat([one := runs[runs["method"] == "DiffVAE"], one.assign(method="again")])
    (row,) = benchmark.compare(same).to_dict("records")
    assert (row["difference"], row["low"], row["high"], row["ties"]) == (0, 0, 0, 4)


@pytest.mark.parametrize("datasets", [("a",), ("a", "b", "c")])
def test_clusterings_are_no_replicates(datasets):
    runs = comparison(datasets=datasets, **KMEANS).table
    again = pd.concat([runs.assign(clustering_seed=runs["clustering_seed"] + 10 * i) for i in range(5)])
    pd.testing.assert_frame_equal(benchmark.compare(again), benchmark.compare(runs))


def test_trainings_are_replicates():
    runs = comparison(**KMEANS).table
    again = pd.concat([runs.assign(seed=runs["seed"] + 10 * i) for i in range(5)])
    few, many = (benchmark.compare(t).eval("high - low") for t in (runs, again))
    assert (many < few / 2).all()


def test_more_data_sets_not_more_trainings_narrow_what_differs_between_data_sets():
    chance = np.random.default_rng(0)

    def width(n_sets, n_seeds):
        gaps = {f"s{i}": chance.normal(0.1, 0.1) for i in range(n_sets)}
        ours = {d: list(0.5 + gap + chance.normal(0, 0.01, n_seeds)) for d, gap in gaps.items()}
        found = benchmark.compare(table({"DiffVAE": ours, "PCA": {d: [0.5] * n_seeds for d in gaps}}))
        return float((found["high"] - found["low"]).iloc[0])

    assert np.mean([width(5, 20) for _ in range(6)]) > 2 * np.mean([width(20, 5) for _ in range(6)])


def test_a_small_difference_is_a_tie_however_sure():
    ours, theirs = [0.5, 0.6, 0.7], [0.495, 0.596, 0.694]
    runs = table({"DiffVAE": {"a": ours}, "PCA": {"a": theirs}})
    (row,) = benchmark.compare(runs).to_dict("records")
    assert row["low"] > 0
    assert row["ties"] == 1
    assert benchmark.compare(runs, margin=0.001)["wins"].tolist() == [1]


def test_of_seconds_fewer_win():
    runs = table({"DiffVAE": {"a": [9.0, 9.5, 9.2]}, "PCA": {"a": [1.0, 1.2, 1.1]}}, metric="training_seconds")
    (row,) = benchmark.compare(runs, metric="training_seconds").to_dict("records")
    assert row["difference"] > 0
    assert row["losses"] == 1


def test_rows_may_be_averaged_over_settings_that_both_have():
    runs = comparison({"DiffVAE": 0.6, "PCA": 0.4}, spread=0.0, jitter=0.0).table
    runs = runs[(runs["method"] == "DiffVAE") | (runs["n_latent"] == 50)]  # of PCA the others are missing
    (row,) = benchmark.compare(runs, by=()).to_dict("records")
    assert row["difference"] == pytest.approx(0.2)
    assert (row["n_pairs"], row["n_dropped"]) == (5, 5 * 2 * 10)
    by = benchmark.compare(runs, by=["space"])
    assert by[["space", "n_pairs"]].to_numpy().tolist() == [["latent", 5], ["tsne", 5]]


def test_same_seed_same_intervals_whatever_the_order_of_rows():
    runs = comparison(datasets=("a", "b"), n_latent=(20, 50), n_clusterings=1).table
    found = benchmark.compare(runs)
    pd.testing.assert_frame_equal(benchmark.compare(runs), found)
    assert found["n_latent"].drop_duplicates().tolist() == [20, 50]
    other = benchmark.compare(runs, rng=1)
    assert (other["low"] != found["low"]).any()
    one = benchmark.compare(runs[runs["method"].isin(["DiffVAE", "PCA"])])  # rows don't depend on other rows
    pd.testing.assert_frame_equal(one, found[found["method"] == "PCA"].reset_index(drop=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "UMAP"}, "reference is 'UMAP', of which the table has no ari; it has 'DiffVAE', 'PCA'"),
        ({"metric": "purity"}, "has no purity; it has the measures ari"),
        ({"by": ["dataset"]}, "by names dataset; ari depends on n_latent, space, clusterer, k_given"),
        ({"n_bootstrap": 0}, "n_bootstrap is 0"),
        ({"level": 1.0}, "level is 1.0"),
    ],
)
def test_what_is_refused(options, message):
    runs = table({"DiffVAE": {"a": [0.6]}, "PCA": {"a": [0.5]}})
    with pytest.raises(ValueError, match=message):
        benchmark.compare(runs, **options)


# The interval


def test_interval_holds_the_truth_as_often_as_it_says():
    chance = np.random.default_rng(0)
    bootstrap = Bootstrap(300, rng=chance)
    held, plain = [], []
    for _ in range(400):
        x = chance.normal(size=5)
        low, high = bootstrap.interval([x])
        held.append(low <= 0 <= high)
        draws = x[chance.integers(5, size=(300, 5))].mean(1)
        plain.append(np.quantile(draws, 0.025) <= 0 <= np.quantile(draws, 0.975))
    assert np.mean(held) == pytest.approx(0.94, abs=0.03)
    assert np.mean(plain) < 0.88  # why it is widened


def test_interval_has_the_width_of_the_equation():
    x = np.array([0.0, 1.0])
    low, high = Bootstrap(2000).interval([x])  # plain quantiles are 0 and 1; t is 12.706, z 1.960
    assert (low, high) == pytest.approx((0.5 - 0.5 * np.sqrt(2) * 12.7062 / 1.95996, 0.5 + 4.5840), rel=1e-3)


# The best


def test_best_and_second_best_by_hand():
    runs = table({"DiffVAE": {"a": [0.5, 0.6]}, "PCA": {"a": [0.55, 0.65]}, "AE": {"a": [0.1, 0.2]}})
    (row,) = leaders(runs, "ari").to_dict("records")
    assert (row["best"], row["second"], row["sure"]) == ("PCA", "DiffVAE", True)
    assert (row["difference"], row["low"]) == (pytest.approx(0.05), pytest.approx(0.05))


def test_best_may_not_be_sure():
    runs = table({"DiffVAE": {"a": [0.5, 0.7, 0.6]}, "PCA": {"a": [0.6, 0.5, 0.65]}})
    (row,) = leaders(runs, "ari").to_dict("records")
    assert (row["best"], row["sure"]) == ("DiffVAE", False)
    assert leaders(table({"PCA": {"a": [0.5, 0.7]}}), "ari").empty  # against nothing
    uncorrelated = {"PCA": {"a": [0.0, 0.0]}, "DiffVAE": {"a": [0.1, 0.1]}}  # by construction, which is no merit
    assert leaders(table(uncorrelated, metric="mean_correlation"), "mean_correlation").empty
    assert not leaders(table(uncorrelated, metric="training_seconds"), "training_seconds").empty
    alike = leaders(table({"PCA": {"a": [0.5, 0.7]}, "same": {"a": [0.5, 0.7]}}), "ari")
    assert alike["sure"].tolist() == [False]


def test_over_data_sets_only_those_that_all_methods_have():
    sets = {name: [0.5 + i / 10, 0.52 + i / 10] for i, name in enumerate("abc")}
    less = {d: [v - 0.1 for v in values] for d, values in sets.items() if d != "c"}
    found = leaders(table({"DiffVAE": sets, "PCA": less}), "ari")
    assert found["dataset"].tolist() == ["a", "b", None]
    assert found["difference"].tolist() == pytest.approx([0.1] * 3)


def test_of_seconds_the_least_is_best_and_of_dimensions_none():
    runs = table({"DiffVAE": {"a": [9.0, 9.5]}, "PCA": {"a": [1.0, 1.2]}}, metric="training_seconds")
    assert leaders(runs, "training_seconds")["best"].tolist() == ["PCA"]
    assert leaders(runs.rename(columns={"training_seconds": "active_dimensions"}), "active_dimensions").empty


# Choice of a configuration


def judged(scores, purity=0.0):
    """Return two trainings with two clusterings of each score, mean as given."""
    rows = [
        {"dataset": d, "method": m, "seed": s, "clustering_seed": c, "space": "latent", "clusterer": "kmeans",
         "k_given": True, "n_latent": 50, "ari": value + 0.01 * (-1) ** s + 0.002 * (-1) ** c, "knn_purity": purity}
        for (d, m), value in scores.items() for s in range(2) for c in range(2)
    ]  # fmt: skip
    return pd.DataFrame(rows)


SCORES = {
    ("x", "A"): 0.9, ("y", "A"): 0.2, ("z", "A"): 0.2,
    ("x", "B"): 0.3, ("y", "B"): 0.4, ("z", "B"): 0.4,
    ("x", "PCA"): 0.5, ("y", "PCA"): 0.5, ("z", "PCA"): 0.5,
}  # fmt: skip


def test_the_data_set_left_out_has_no_say():
    found = benchmark.leave_one_out(judged(SCORES), ["A", "B"]).set_index("dataset")
    # without x B leads (.4 to .2), so that A's .9 on x is not had; without y or z A leads (.55 to .35)
    assert found["chosen"].to_dict() == {"x": "B", "y": "A", "z": "A", "mean": "A"}
    assert np.allclose(found["ari"], [0.3, 0.2, 0.2, 0.7 / 3])
    assert np.allclose(found["ari PCA"], 0.5)


def test_the_sum_of_measures_decides():
    both = judged(SCORES)
    both.loc[both["method"] == "B", "knn_purity"] = 1.0
    found = benchmark.leave_one_out(both, ["A", "B"])
    assert (found["chosen"] == "B").all()
    assert (benchmark.leave_one_out(both, ["A", "B"], measures=["ari"])["chosen"] != "B").any()


def test_runs_of_other_settings_do_not_count():
    runs = judged(SCORES)
    other = runs.assign(ari=1 - runs["ari"], clusterer="leiden")
    told = runs.assign(ari=1 - runs["ari"], k_given=False)
    expected = benchmark.leave_one_out(runs, ["A", "B"])
    pd.testing.assert_frame_equal(benchmark.leave_one_out(pd.concat([runs, other, told]), ["A", "B"]), expected)
    small = runs.assign(ari=1 - runs["ari"], n_latent=20)
    pd.testing.assert_frame_equal(benchmark.leave_one_out(pd.concat([runs, small]), ["A", "B"], n_latent=50), expected)


def test_gaps_are_refused():
    runs = judged(SCORES)
    with pytest.raises(ValueError, match="'B' has no runs on 'y'"):
        benchmark.leave_one_out(runs[(runs["method"] != "B") | (runs["dataset"] != "y")], ["A", "B"])
    with pytest.raises(ValueError, match="1 data set; leaving one out needs two"):
        benchmark.leave_one_out(runs[runs["dataset"] == "x"], ["A", "B"])
    with pytest.raises(ValueError, match="no column 'speed'"):
        benchmark.leave_one_out(runs, ["A", "B"], measures=["speed"])
