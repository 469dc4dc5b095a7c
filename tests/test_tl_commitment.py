"""Calls of progenitors by a mixture of paths: planted fates, nulls, and what is written."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from diffvae import tl
from diffvae.tl._paths import call_cells, fit_paths, most_cells, path_ends, projected

COLUMNS = ["cell", "call", "strongest", "posterior", "progress", "call_pca"]
N, D = 120, 8  # cells of each type, dimensions


def planted(seed=0, n_red=30, n_blue=20, n_old=0) -> ad.AnnData:
    """Return progenitors around 0, of which the last have begun towards red, blue, or from old, 10 sd away."""
    rng = np.random.default_rng(seed)
    ends = {"blue": np.eye(D)[0], "old": np.eye(D)[1], "red": np.eye(D)[2]}
    places, types = [rng.normal(size=(N, D))], ["stem"] * (N + n_red + n_blue + n_old)
    fate = ["stem"] * N + ["red"] * n_red + ["blue"] * n_blue + ["old"] * n_old
    for name in fate[N:]:
        places.append(10 * rng.uniform(0.4, 0.8) * ends[name] + rng.normal(size=(1, D)))
    for name, end in ends.items():
        places.append(10 * end + rng.normal(size=(N, D)))
        types, fate = types + [name] * N, fate + [name] * N
    x = np.concatenate(places)
    obs = pd.DataFrame({"type": pd.Categorical(types), "fate": fate}, index=[f"cell {i}" for i in range(len(x))])
    adata = ad.AnnData(rng.random((len(x), 20)).astype(np.float32), obs=obs)
    adata.obsm["X_mine"] = x
    return adata


def call(adata, **options):
    return tl.commitment(adata, "stem", "type", **{"use_rep": "X_mine", **options})


def fates_of(adata, calls):
    return adata.obs.loc[calls["cell"], "fate"].to_numpy()


def test_planted_fates_are_called():
    adata = planted()
    calls = call(adata, earlier=["old"])
    assert calls.columns.tolist() == COLUMNS
    fate, named = fates_of(adata, calls), (calls["call"] != "uncommitted").to_numpy()
    right = calls["call"].to_numpy() == "biased: " + fate.astype(object)
    assert adata.uns["diffvae"]["commitment_params"]["expected_false"] <= 0.1
    assert right[named].mean() > 0.8  # of some 60 calls, a tenth may be wrong
    assert right[fate != "stem"].mean() > 0.8
    assert (calls["strongest"].astype(str).to_numpy()[named] == calls["call"].str.removeprefix("biased: ")[named]).all()
    assert calls["posterior"].between(0, 1).all()
    assert calls["progress"].between(0, 1).all()


def test_progress_follows_the_place_on_the_path():
    adata = planted(n_red=60, n_blue=60)
    calls = call(adata, earlier=["old"], min_core=0.4)
    red = (calls["call"] == "biased: red").to_numpy()
    place = adata.obsm["X_mine"][: len(calls), 2]
    assert np.corrcoef(place[red], calls["progress"][red])[0, 1] > 0.9


@pytest.mark.parametrize("seed", range(5))
def test_nobody_is_called_where_nobody_has_begun(seed):
    adata = planted(seed, 0, 0)
    calls = call(adata, earlier=["old"])
    assert (calls["call"] != "uncommitted").mean() <= 0.01
    assert adata.uns["diffvae"]["commitment_params"]["null_called"] <= 0.01


def test_the_expected_share_of_false_calls_is_kept():
    wrong = n = 0
    for seed in range(6):
        adata = planted(seed)
        calls = call(adata, earlier=["old"])
        named = (calls["call"] != "uncommitted").to_numpy()
        wrong += (calls["call"].to_numpy()[named] != "biased: " + fates_of(adata, calls)[named].astype(object)).sum()
        n += named.sum()
    assert n > 6 * 30
    assert wrong / n < 0.15


def test_ancestors_are_no_fates():
    adata = planted(n_old=30)
    named = call(adata, earlier=["old"])
    old = fates_of(adata, named) == "old"
    assert set(named["call"][old]) == {"uncommitted"}
    assert (named["strongest"][old] == "old").mean() > 0.8
    assert (call(adata)["call"][old] == "biased: old").mean() > 0.8  # if nobody says that it is earlier


def test_targets_may_be_some_of_the_types():
    adata = planted()
    calls = call(adata, targets=["blue", "blue"], earlier=["old"])
    assert adata.uns["diffvae"]["commitment_params"]["targets"] == ["blue"]
    assert set(calls["call"]) == {"uncommitted", "biased: blue"}


def test_a_larger_q_calls_no_fewer():
    numbers = [(call(planted(), earlier=["old"], max_q=q)["call"] != "uncommitted").sum() for q in (1e-9, 0.1, 0.5)]
    assert numbers == sorted(numbers)
    assert numbers[0] < numbers[-1]


def test_the_core_share_is_kept():
    adata = planted(n_red=100, n_blue=60)
    call(adata, earlier=["old"], min_core=0.7)
    parameters = adata.uns["diffvae"]["commitment_params"]
    assert parameters["core_share"] == pytest.approx(0.7)
    assert parameters["at_limit"]
    call(adata, earlier=["old"], min_core=0.2)
    parameters = adata.uns["diffvae"]["commitment_params"]
    assert 0.2 < parameters["core_share"] < 120 / 280 + 0.06
    assert not parameters["at_limit"]


def test_shares_centre_and_variance_are_found():
    rng = np.random.default_rng(0)
    ends = np.array([[12.0, 0], [0, 12.0]])
    s = rng.random(2000)
    x = np.concatenate([np.tile([1.0, 1.0], (6000, 1)), [1, 1] + s[:, None] * (ends[0] - 1)])
    fit = fit_paths(x + np.sqrt(0.6) * rng.normal(size=x.shape), ends, 0.5)
    assert fit.core == pytest.approx(0.75, abs=0.02)
    assert fit.shares == pytest.approx([0.25, 0], abs=0.02)
    assert fit.centre == pytest.approx([1, 1], abs=0.05)
    assert fit.variance == pytest.approx(0.6, abs=0.03)
    assert np.corrcoef(fit.progress[6000:, 0], s)[0, 1] > 0.95


def spread(rng, reach) -> tuple[np.ndarray, np.ndarray]:
    """Return progenitors that are spread evenly from 0 towards the first of two ends, up to ``reach`` of the way."""
    x = rng.normal(size=(300, 2))
    x[:, 0] += 10 * reach * rng.random(300)
    return x, np.array([[10.0, 0], [0, 10.0]])


@pytest.mark.parametrize("seed", [0, 1, 4])
def test_without_a_core_nothing_is_called(seed):
    x, ends = spread(np.random.default_rng(seed), 1.1)
    fit, called, withheld = call_cells(x, ends, 2, 0.1, 0.6)
    assert fit.at_limit
    assert withheld
    assert (called == -1).all()
    assert (most_cells(fit.posterior, 0.1, 2) >= 0).mean() > 0.3  # what is withheld: they seem to be sure
    assert not call_cells(x, ends, 2, 0.1, 0.1)[2]  # whoever passes so low a limit expects that most have begun


def test_a_core_at_its_limit_is_no_reason_to_withhold_calls():
    x, ends = spread(np.random.default_rng(0), 0.7)
    fit, called, withheld = call_cells(x, ends, 2, 0.1, 0.6)
    assert fit.at_limit
    assert not withheld
    assert (called >= 0).sum() == (most_cells(fit.posterior, 0.1, 2) >= 0).sum() > 0


def test_withheld_calls_are_told():
    adata = planted(n_red=0, n_blue=0)
    own = (adata.obs["type"] == "stem").to_numpy()
    adata.obsm["X_mine"][own, 2] += 11 * np.random.default_rng(0).random(own.sum())
    with pytest.warns(UserWarning, match="No cell of 'stem' is called: without its lower limit .0.6. the share"):
        calls = call(adata, earlier=["old"])
    assert set(calls["call"]) == {"uncommitted"}
    assert adata.obs["diffvae_commitment"].dropna().eq("uncommitted").all()
    assert adata.uns["diffvae"]["commitment_params"]["withheld"]
    usual = planted()
    call(usual, earlier=["old"])
    assert not usual.uns["diffvae"]["commitment_params"]["withheld"]


def test_the_longest_list_by_hand():
    posterior = np.array([[0.98, 0.01], [0.1, 0.85], [0.85, 0.1], [0.5, 0.1]])  # wrong: .02, .15, .15, .5
    assert most_cells(posterior, 0.1, 2).tolist() == [0, 1, -1, -1]  # means: .02, .085, .107, .205
    assert most_cells(posterior, 0.11, 2).tolist() == [0, 1, 0, -1]
    assert most_cells(posterior, 0.11, 1).tolist() == [0, -1, 0, -1]  # the second path leads to an earlier type
    assert most_cells(posterior, 0.01, 2).tolist() == [-1] * 4


def test_ends_are_the_nearest_fifth_of_each_type():
    rng = np.random.default_rng(0)
    along = np.concatenate([np.zeros(50), rng.permutation(np.linspace(5, 15, 400))])
    y = np.column_stack([along, 0.01 * rng.normal(size=450)])
    end = path_ends(y, np.repeat(["stem", "red"], [50, 400]).astype(object), "stem", ["red"])
    assert end[0] == pytest.approx([6, 0], abs=0.05)  # the mean of 5 to 7
    pool, ends = projected(y[:50], end)
    assert pool.shape == (50, 1)
    assert abs(ends[0, 0] - pool.mean()) == pytest.approx(6, abs=0.05)


def test_what_is_written_and_where(tmp_path):
    adata = planted()
    before = adata.copy()
    calls = call(adata, earlier=["old"])
    assert set(adata.obs) - set(before.obs) == {"diffvae_commitment", "diffvae_commitment_posterior"}
    own = adata.obs["type"] == "stem"
    assert adata.obs["diffvae_commitment"][own].tolist() == calls["call"].tolist()
    assert adata.obs["diffvae_commitment"][~own].isna().all()
    assert adata.obs["diffvae_commitment_posterior"][own].tolist() == calls["posterior"].tolist()
    stored = adata.uns["diffvae"]
    pd.testing.assert_frame_equal(stored["commitment"], calls)
    table = stored["commitment_types"]
    assert len(table) == 2 * len(calls)
    assert table["graph"].unique().tolist() == ["pca"]
    assert table["type"].tolist() == ["blue", "red"] * len(calls)
    assert {"posterior", "progress", "n_links", "expected", "q_value"} <= set(table)
    assert set(adata.obsm) == {"X_mine"}
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    for name in ("commitment", "commitment_types"):
        pd.testing.assert_frame_equal(
            again.uns["diffvae"][name], stored[name], check_dtype=False, check_index_type=False
        )
    assert list(again.uns["diffvae"]["commitment_params"]["earlier"]) == ["old"]


def test_links_stand_beside_the_calls():
    adata = planted()
    adata.obsm["X_diffvae_link"] = adata.obsm["X_mine"].astype(np.float32)
    adata.uns["diffvae"] = {"links": {"top_k": 10}}
    calls = call(adata, earlier=["old"])
    assert calls.columns.tolist() == [*COLUMNS, "call_links"]
    assert adata.uns["diffvae"]["commitment_types"]["graph"].unique().tolist() == ["pca", "predicted"]
    assert (calls["call_links"] == "biased: red").any()


def test_permuted_cells_have_permuted_calls():
    adata = planted()
    calls = call(adata, earlier=["old"]).set_index("cell")
    other = planted()[np.random.default_rng(1).permutation(adata.n_obs)].copy()
    again = call(other, earlier=["old"]).set_index("cell")
    assert again.index.tolist() != calls.index.tolist()
    assert again.loc[calls.index, "call"].tolist() == calls["call"].tolist()
    assert again.loc[calls.index, "posterior"].to_numpy() == pytest.approx(calls["posterior"].to_numpy(), abs=1e-6)


def test_few_cells():
    adata = planted()
    few = adata[[0, 150, *range(170, adata.n_obs)]].copy()
    assert set(call(few, earlier=["old"])["call"]) <= {"uncommitted", "biased: red", "biased: blue"}
    one = adata[[0, *range(170, 300), adata.n_obs - 1]].copy()  # a single progenitor, and a single red cell
    assert call(one, earlier=["old"])["call"].tolist() == ["uncommitted"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"groupby": "kind"}, r"obs\['kind'\] is missing; there are: type"),
        ({"source": "root"}, "'root' is not a type of adata.obs.'type'.; the types are: blue, old, red, stem"),
        ({"targets": ["pink"]}, "'pink' is not a type"),
        ({"targets": ["stem"]}, "targets is .'stem'.; it must be one or more types other than 'stem'"),
        ({"targets": []}, "it must be one or more types other than"),
        ({"earlier": ["red"], "targets": ["red"]}, "earlier has 'red', which is also the source or a target"),
        ({"earlier": "old"}, "targets and earlier are lists of types"),
        ({"max_q": 0}, "max_q is 0; it must be a number above 0 and below 1"),
        ({"min_core": 1.0}, "min_core is 1.0"),
        ({"use_rep": None, "layer": "spliced"}, "spliced"),
    ],
)
def test_errors_are_sentences_and_write_nothing(options, sentence):
    adata = planted()
    with pytest.raises(ValueError, match=sentence):
        tl.commitment(adata, **{"source": "stem", "groupby": "type", "use_rep": "X_mine", **options})
    assert list(adata.obs) == ["type", "fate"]
    assert not adata.uns
