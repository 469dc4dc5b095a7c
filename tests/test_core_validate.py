import numpy as np
import pytest

from diffvae._core.validate import Choice, Either, Flag, Number, Optional, Whole, check

RULES = {
    "k": Whole(1),
    "q": Number("(0, 1]"),
    "sd": Number("[0, inf)"),
    "how": Choice("up", "down"),
    "n": Either(Choice("auto"), Whole(2, 9)),
    "t": Optional(Number("(0, 1)")),
    "on": Flag(),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("k", 1), ("k", np.int64(3)), ("q", 1), ("q", np.float32(0.5)), ("sd", 0), ("how", "up"), ("n", "auto")],
        *[("n", 9), ("t", None), ("t", 0.5), ("on", False)],
    ],
)
def test_allowed_values_pass(name, value):
    check(RULES, **{name: value})


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("k", 0, "k is 0; it must be a whole number of 1 or more."),
        ("k", True, "k is True; it must be a whole number of 1 or more."),
        ("k", 2.0, "k is 2.0; it must be a whole number of 1 or more."),
        ("q", 0, "q is 0; it must be a number above 0 and at most 1."),
        ("q", np.float64(2), "q is 2.0; it must be a number above 0 and at most 1."),
        ("sd", float("inf"), "sd is inf; it must be a number of at least 0."),
        ("sd", "x", "sd is 'x'; it must be a number of at least 0."),
        ("how", "sideways", "how is 'sideways'; it must be 'up' or 'down'."),
        ("n", 10, "n is 10; it must be 'auto' or a whole number from 2 to 9."),
        ("t", 1, "t is 1; it must be None or a number above 0 and below 1."),
        ("on", 1, "on is 1; it must be True or False."),
    ],
)
def test_the_sentence_says_what_it_must_be(name, value, sentence):
    with pytest.raises(ValueError, match="must be") as error:
        check(RULES, **{name: value})
    assert str(error.value) == sentence
