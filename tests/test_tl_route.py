"""Routes: along a line, around a ring, across a gap, and what is refused."""

import anndata as ad
import numpy as np
import pytest

import diffvae as dv
from diffvae.pp import DataError


def cells(z, types):
    return ad.AnnData(obs={"type": types}, obsm={"X_diffvae": np.asarray(z, float)})


def line(n=200):
    """Cells on a line from (0, 0) to (10, 0)."""
    return np.stack([np.linspace(0, 10, n), np.zeros(n)], axis=1)


def route(adata, *args, **options):
    return dv.tl.route(adata, *args, groupby="type", n_neighbors=4, **options).set_index("target")


def test_along_a_line_the_path_is_straight():
    types = np.repeat(["a", "b", "c"], [50, 100, 50])
    found = route(cells(line(), types), "a")
    assert found.index.tolist() == ["b", "c"]
    np.testing.assert_allclose(found["route"], 1, rtol=1e-9)
    np.testing.assert_allclose(found["length"], found["straight"])
    # from the middle of a (x = 1.23 in the mean of two cells) to the inner half of c, whose nearest cell is at 8.14
    assert found.loc["c", "straight"] == pytest.approx((163 - 24.5) * 10 / 199, abs=0.06)
    assert found.loc["b", ["through", "passes"]].tolist() == [0, ""]
    assert found.loc["c", "passes"] == "b"


def test_around_a_ring_the_path_is_half_the_circle():
    angle = np.linspace(0, np.pi, 400)
    types = np.repeat(["a", "way", "b"], [4, 392, 4])
    found = route(cells(np.stack([np.cos(angle), np.sin(angle)], axis=1), types), "a")
    assert found.loc["b", "length"] == pytest.approx(np.pi, rel=0.02)
    assert found.loc["b", "straight"] == pytest.approx(2, rel=0.02)
    assert found.loc["b", "route"] == pytest.approx(np.pi / 2, rel=0.02)
    assert found.loc["b", "passes"] == "way"
    assert found.loc["b", "through"] > 0.95


def test_across_a_gap_there_is_no_way():
    z = np.concatenate([line(), line() + 100])
    found = route(cells(z, np.repeat(["a", "b", "far"], [100, 100, 200])), "a")
    assert found.loc["b", "route"] == pytest.approx(1)
    assert found.loc["far", "route"] == found.loc["far", "length"] == np.inf
    assert np.isnan(found.loc["far", "straight"])
    assert found.loc["far", "through"] == 0


def test_most_cells_decide_where_some_are_cut_off():
    z = np.concatenate([line(), line(20) + 100])  # 20 of the 70 cells of a lie elsewhere
    types = np.array(["a"] * 50 + ["b"] * 150 + ["a"] * 20)
    assert route(cells(z, types), "a").loc["b", "route"] == pytest.approx(1)
    types = np.array(["a"] * 10 + ["b"] * 190 + ["a"] * 20)
    assert route(cells(z, types), "a").loc["b", "route"] == np.inf


def test_the_way_may_lead_through_cells_without_a_type():
    types = np.repeat(np.array(["a", None, "b"], object), [50, 100, 50])
    found = route(cells(line(), types), "a")
    assert found.index.tolist() == ["b"]
    assert found.loc["b", "route"] == pytest.approx(1)


def test_coinciding_cells_do_not_divide_by_zero():
    z = np.repeat(line(20), 10, axis=0)
    found = route(cells(z, np.repeat(["a", "b"], 100)), "a")
    assert found["route"].notna().all()


def test_true_branches_have_shorter_ways_than_absent_ones():
    adata = dv.datasets.simulate_differentiation(1200, 300, rng=0)
    dv.pp.prepare(adata)
    dv.tl.embed(adata, dv.model.PCA(n_latent=20).train(adata))
    found = dv.tl.route(adata, "GMP", groupby="cell_type").set_index("target")["route"]
    assert found[["Neutrophil", "Monocyte"]].max() < found[["Erythrocyte", "Thrombocyte", "Lymphocyte"]].min()
    assert adata.uns["diffvae"]["route"]["route"].tolist() == found.tolist()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"source": "x"}, DataError, r"'x' has 0 cells in adata.obs\['type'\]; it needs at least two"),
        ({"target": "one"}, DataError, "'one' has 1 cells"),
        ({"target": "a"}, DataError, "'a' is source and target at once; name another target"),
        ({"target": []}, ValueError, "The list is empty; give at least one name"),
        ({"groupby": "kind"}, DataError, r"adata.obs\['kind'\] is missing; the columns are: type"),
        ({"n_neighbors": 0}, ValueError, "n_neighbors is 0"),
        ({"use_rep": "X_none"}, DataError, "X_none"),
    ],
)
def test_what_is_refused(options, error, message):
    adata = cells(line(), np.repeat(["a", "b", "one"], [100, 99, 1]))
    with pytest.raises(error, match=message):
        dv.tl.route(adata, **({"source": "a", "groupby": "type"} | options))
