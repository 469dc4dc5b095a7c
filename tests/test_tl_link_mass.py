"""Links of progenitors to types, against a hypergeometric null."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from diffvae.tl._link_mass import link_mass, name_cells

TARGETS = ["blue", "green", "red"]
PLAIN, BIASED, BIPOTENT = 40, 6, 3  # progenitors without a fate, with one (red), and with two (red and blue)


def counted(places, types, k, targets=TARGETS, metric="cosine"):
    """Return the table of the progenitors, which are called stem."""
    types = np.array(types)
    member = (types[:, None] == np.array(targets)).astype(np.int64)
    return link_mass(np.asarray(places, dtype=np.float32), metric, k, np.flatnonzero(types == "stem"), member)


def planted(seed=0):
    """Return progenitors around one place, three types around others, and some progenitors among the types."""
    rng = np.random.default_rng(seed)
    stem, red, blue, green = np.eye(12)[:4]
    places = [stem] * PLAIN + [red + 0.05 * stem] * BIASED + [red + blue] * BIPOTENT
    places += [red] * 20 + [blue] * 20 + [green] * 20
    # those between red and blue see both: half of either type lies on their side
    places = np.array(places) + 0.05 * rng.normal(size=(len(places), 12))
    start = PLAIN + BIASED + BIPOTENT
    places[start : start + 6] += 0.8 * blue
    places[start + 20 : start + 26] += 0.8 * red
    return places, ["stem"] * start + ["red"] * 20 + ["blue"] * 20 + ["green"] * 20


def by_chance(seed, n_stem=60, n_others=140):
    """Return places that have nothing to do with the types."""
    rng = np.random.default_rng(seed)
    types = ["stem"] * n_stem + list(rng.choice(TARGETS, n_others))
    return rng.normal(size=(n_stem + n_others, 6)), types


def test_planted_fates_are_called_and_a_pair_has_one_name():
    found = name_cells(counted(*planted(), 8), TARGETS, 0.05)
    plain, biased, both = np.split(np.array(found["call"]), [PLAIN, PLAIN + BIASED])
    assert set(plain) == {"uncommitted"}
    assert set(biased) == {"biased: red"}
    assert set(both) == {"bipotent: blue/red"}
    named = np.array(found["call"]) != "uncommitted"
    assert (np.isfinite(found["confidence"]) == named).all()
    assert set(np.array(found["strongest"])[PLAIN : PLAIN + BIASED]) == {"red"}


def test_links_expectation_and_p_by_hand():
    # six cells on a circle, in degrees; each chooses the one nearest: 0-1, 2-3, 4-3, 5-4
    angles = np.deg2rad([0, 5, 90, 100, 115, 135])
    places = np.column_stack([np.cos(angles), np.sin(angles)])
    # how long a place is, a cell's popularity, says nothing of its direction
    places *= [[1], [9], [1], [2], [5], [1]]
    table = counted(places, ["stem", "red", "stem", "red", "stem", "blue"], 1, ["red", "blue"])
    # progenitors are 0 (linked to 1), 2 (to 3) and 4 (to 3 and 5): M = 4 links, S_red = 3, S_blue = 1
    assert table["n_links"].tolist() == [[1, 0], [1, 0], [1, 1]]
    assert table["expected"] == pytest.approx(np.array([[0.75, 0.25], [0.75, 0.25], [1.5, 0.5]]))
    assert table["share"].tolist() == [[1, 0], [1, 0], [0.5, 0.5]]
    # cell 4 has 2 of the 4 links: both miss the one to blue in C(3, 2) of C(4, 2) = 6 deals, 1 - 3/6; red is sure
    assert table["p_value"] == pytest.approx(np.array([[0.75, 1], [0.75, 1], [1, 0.5]]))
    assert table["q_value"].ravel() == pytest.approx(stats.false_discovery_control(table["p_value"].ravel()))


def test_hypergeometric_p_of_every_cell():
    places, types = by_chance(3)
    table = counted(places, types, 15)
    distance = cdist(places, places, "cosine")
    np.fill_diagonal(distance, np.inf)
    links = np.zeros(distance.shape, bool)
    np.put_along_axis(links, np.argsort(distance, axis=1)[:, :15], True, axis=1)
    links = (links | links.T)[:60]
    n_links = np.stack([links[:, np.array(types) == t].sum(1) for t in TARGETS], axis=1)
    assert table["n_links"].tolist() == n_links.tolist()
    degree = links.sum(1)
    for cell in range(60):
        for name in range(3):
            null = stats.hypergeom(degree.sum(), n_links[:, name].sum(), degree[cell])
            assert table["p_value"][cell, name] == pytest.approx(null.sf(n_links[cell, name] - 1), abs=1e-12)
    assert table["expected"].sum(axis=0) == pytest.approx(table["n_links"].sum(axis=0))


def test_chance_gives_few_false_calls():
    calls = [name for seed in range(8) for name in name_cells(counted(*by_chance(seed), 15), TARGETS, 0.05)["call"]]
    assert len(calls) == 8 * 60
    assert np.mean(np.array(calls) != "uncommitted") < 0.01


def test_progenitors_linked_to_each_other_only_are_uncommitted():
    rng = np.random.default_rng(0)
    places = np.repeat(np.eye(6)[:2], [20, 20], axis=0) + 0.05 * rng.normal(size=(40, 6))
    found = name_cells(counted(places, ["stem"] * 20 + ["red"] * 20, 5, ["red"]), ["red"], 0.05)
    assert set(found["call"]) == {"uncommitted"}
    assert np.isnan(found["confidence"]).all()
    assert found["strongest"].isna().all()


def test_multipotent():
    rng = np.random.default_rng(0)
    stem, *types = np.eye(20)[:4]
    places = np.array([stem] * 60 + [sum(types)] + [sum(types) + t for t in types for _ in range(6)])
    names = ["stem"] * 61 + list(np.repeat(TARGETS, 6))
    found = name_cells(counted(places + 0.02 * rng.normal(size=places.shape), names, 18), TARGETS, 0.05)
    assert found["call"][60] == "multipotent: blue/green/red"
