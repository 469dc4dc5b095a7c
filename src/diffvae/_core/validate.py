"""Arguments checked once, at the door: a rule per argument, and one form of sentence when it is broken."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, Protocol


class Rule(Protocol):
    """What an argument may be."""

    def __contains__(self, value: Any) -> bool:
        """Return whether a value is allowed."""
        ...

    def __str__(self) -> str:
        """Complete the sentence "it must be ..."."""
        ...


@dataclass(frozen=True)
class Whole:
    """A whole number in a closed range.

    Examples
    --------
    >>> print(Whole(1)), print(Whole(1, 50))
    a whole number of 1 or more
    a whole number from 1 to 50
    (None, None)
    """

    low: int
    high: int | None = None

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            return False
        return self.low <= int(value) and (self.high is None or int(value) <= self.high)

    def __str__(self) -> str:
        return f"a whole number {f'of {self.low} or more' if self.high is None else f'from {self.low} to {self.high}'}"


@dataclass(frozen=True)
class Number:
    """A finite number in an interval, written as in mathematics: ``Number("(0, 1]")``, ``Number("[0, inf)")``.

    Examples
    --------
    >>> 0 in Number("(0, 1]"), 1 in Number("(0, 1]")
    (False, True)
    >>> print(Number("(0, 1]"))
    a number above 0 and at most 1
    """

    interval: str

    def _ends(self) -> tuple[float, float]:
        low, high = self.interval[1:-1].split(",")
        return float(low), float(high)

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
            return False
        number, (low, high) = float(value), self._ends()
        above = number >= low if self.interval[0] == "[" else number > low
        below = number <= high if self.interval[-1] == "]" else number < high
        return above and below

    def __str__(self) -> str:
        low, high = self._ends()
        parts = []
        if math.isfinite(low):
            parts.append(f"of at least {low:g}" if self.interval[0] == "[" else f"above {low:g}")
        if math.isfinite(high):
            parts.append(f"at most {high:g}" if self.interval[-1] == "]" else f"below {high:g}")
        return f"a number {' and '.join(parts)}" if parts else "a finite number"


class Choice:
    """One of several names.

    Examples
    --------
    >>> print(Choice("share", "odds_ratio"))
    'share' or 'odds_ratio'
    """

    def __init__(self, *names: str) -> None:
        self.names = names

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.names

    def __str__(self) -> str:
        *others, last = map(repr, self.names)
        return f"{', '.join(others)} or {last}" if others else last


class Flag:
    """True or False."""

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "True or False"


class Optional:
    """Another rule, or None.

    Examples
    --------
    >>> print(Optional(Whole(2)))
    None or a whole number of 2 or more
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def __contains__(self, value: Any) -> bool:
        return value is None or value in self.rule

    def __str__(self) -> str:
        return f"None or {self.rule}"


class Either:
    """The first of several rules that fits.

    Examples
    --------
    >>> print(Either(Choice("auto"), Whole(1)))
    'auto' or a whole number of 1 or more
    """

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules

    def __contains__(self, value: Any) -> bool:
        return any(value in rule for rule in self.rules)

    def __str__(self) -> str:
        return " or ".join(map(str, self.rules))


def check(rules: dict[str, Rule], **values: Any) -> None:
    """Refuse the first value that breaks the rule of its argument.

    Parameters
    ----------
    rules
        Argument to rule, declared once beside the function that takes the arguments.
    **values
        Arguments that were given; each must have a rule.

    Raises
    ------
    ValueError
        A sentence with the argument, its value and what it must be.

    Examples
    --------
    >>> check({"max_q": Number("(0, 1]")}, max_q=2)
    Traceback (most recent call last):
    ValueError: max_q is 2; it must be a number above 0 and at most 1.
    """
    for name, value in values.items():
        if value not in rules[name]:
            shown = value if isinstance(value, numbers.Number) else repr(value)  # not np.float64(2.0)
            raise ValueError(f"{name} is {shown}; it must be {rules[name]}.")
