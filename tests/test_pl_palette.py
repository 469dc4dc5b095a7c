from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from diffvae.pl._style import CATEGORIES, DIVERGING, GREY, SEQUENTIAL, colours, ink_on, is_unassigned, natural_key

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}


def oklab(colour, vision="normal"):
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(VISION[vision]) @ linear, 0, 1)
    to_lms = [
        [0.41222147, 0.53633254, 0.05144599],
        [0.2119035, 0.68069955, 0.10739696],
        [0.08830246, 0.28171884, 0.6299787],
    ]
    to_lab = [
        [0.21045426, 0.79361779, -0.00407205],
        [1.9779985, -2.42859221, 0.45059371],
        [0.0259040, 0.78277177, -0.80867577],
    ]
    return to_lab @ np.cbrt(to_lms @ linear)


def nearest(colours, vision):
    points = [oklab(c, vision) for c in colours]
    return min(np.linalg.norm(a - b) for a, b in combinations(points, 2))


@pytest.mark.parametrize(
    ("n", "vision", "least"), [(7, "normal", 0.12), (32, "normal", 0.08), (10, "deutan", 0.07), (10, "protan", 0.08)]
)
def test_colours_are_told_apart(n, vision, least):
    assert nearest(CATEGORIES[:n], vision) > least


def test_colours_are_not_white_nor_the_grey_of_unassigned():
    assert min(np.linalg.norm(oklab(c) - oklab(x)) for c in CATEGORIES for x in (GREY, "white")) > 0.08


def test_colour_follows_from_the_place_and_unassigned_takes_none():
    plain = colours(["a", "b", "c"])
    assert list(plain.values()) == [c.lower() for c in CATEGORIES[:3]]
    with_grey = colours(["a", "unassigned", "b", "NA", "c"])
    assert {k: with_grey[k] for k in "abc"} == plain
    assert with_grey["unassigned"] == with_grey["NA"] == GREY.lower()


def test_more_groups_than_colours():
    many = colours([str(i) for i in range(70)])
    assert len(set(many.values())) == 70


def test_palette_of_the_user():
    assert colours(["a", "b"], {"b": "red", "z": "blue"}) == {"a": CATEGORIES[0].lower(), "b": "#ff0000"}
    assert colours(["a", "b"], ["red", "#00ff00"]) == {"a": "#ff0000", "b": "#00ff00"}
    with pytest.raises(ValueError, match="palette has 1 colours for 2 categories"):
        colours(["a", "b"], ["red"])
    with pytest.raises(ValueError, match=r"gives 'a' the colour 'reddish'"):
        colours(["a"], {"a": "reddish"})
    with pytest.raises(ValueError, match="palette is 'tab10'; pass a list"):
        colours(["a"], "tab10")


def test_sequential_gets_darker_evenly():
    lightness = np.array([oklab(SEQUENTIAL(t))[0] for t in np.linspace(0, 1, 33)])
    steps = -np.diff(lightness)
    assert (steps > 0).all()
    assert steps.max() / steps.min() < 4
    assert lightness[0] < 0.9  # seen on white


def test_diverging_is_neutral_in_the_middle():
    red, _, blue, _ = DIVERGING(0.5)
    assert abs(red - blue) < 0.02


def test_ink():
    assert ink_on(to_rgb("white")) != ink_on(to_rgb("black")) == "white"


@pytest.mark.parametrize("name", ["unassigned", "Unknown", "nan", "NA", "-1", "noise", ""])
def test_unassigned(name):
    assert is_unassigned(name)
    assert not is_unassigned(f"{name}1x")


def test_natural_order_mixes_numbers_and_names():
    assert sorted(["10", "b", "2", "a10", "a9"], key=natural_key) == ["2", "10", "a9", "a10", "b"]
