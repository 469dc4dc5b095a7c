"""A configuration is chosen without the set that it is judged on."""

import numpy as np
import pandas as pd
import pytest

from diffvae.benchmark import leave_one_out


def table(scores, purity=0.0):
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


def test_the_set_itself_has_no_say():
    found = leave_one_out(table(SCORES), ["A", "B"]).set_index("dataset")
    # without x B leads (.4 to .2), so that A's .9 on x is not had; without y or z A leads (.55 to .35)
    assert found["chosen"].to_dict() == {"x": "B", "y": "A", "z": "A", "mean": "A"}
    assert np.allclose(found["ari"], [0.3, 0.2, 0.2, 0.7 / 3])
    assert np.allclose(found["ari PCA"], 0.5)


def test_the_sum_of_measures_decides():
    both = table(SCORES)
    both.loc[both["method"] == "B", "knn_purity"] = 1.0
    found = leave_one_out(both, ["A", "B"])
    assert (found["chosen"] == "B").all()
    assert (leave_one_out(both, ["A", "B"], measures=["ari"])["chosen"] != "B").any()


def test_runs_of_other_settings_do_not_count():
    runs = table(SCORES)
    other = runs.assign(ari=1 - runs["ari"], clusterer="leiden")
    told = runs.assign(ari=1 - runs["ari"], k_given=False)
    expected = leave_one_out(runs, ["A", "B"])
    pd.testing.assert_frame_equal(leave_one_out(pd.concat([runs, other, told]), ["A", "B"]), expected)
    small = runs.assign(ari=1 - runs["ari"], n_latent=20)
    pd.testing.assert_frame_equal(leave_one_out(pd.concat([runs, small]), ["A", "B"], n_latent=50), expected)


def test_gaps_are_refused():
    runs = table(SCORES)
    with pytest.raises(ValueError, match="'B' has no runs on 'y'"):
        leave_one_out(runs[(runs["method"] != "B") | (runs["dataset"] != "y")], ["A", "B"])
    with pytest.raises(ValueError, match="1 data set; leaving one out needs two"):
        leave_one_out(runs[runs["dataset"] == "x"], ["A", "B"])
    with pytest.raises(ValueError, match="no column 'speed'"):
        leave_one_out(runs, ["A", "B"], measures=["speed"])
