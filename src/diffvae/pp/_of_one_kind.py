"""Do several files hold the same kind of values? A sample of each is examined; mixed, they look like one kind."""

from __future__ import annotations

from dataclasses import dataclass

from diffvae._errors import DataError
from diffvae._random import generator
from diffvae._store import Store
from diffvae.pp._check import KIND_NAMES
from diffvae.pp._kind import Kind, summarise, tell_kind, unlogged_total

SAMPLE = 2_000
"""Cells of each file that are looked at."""
NEAR = 0.05
"""Relative difference of totals, once logs are undone, up to which they count as equal."""


@dataclass(frozen=True)
class _Values:
    """Kind of the values in one file, and base and total of the logs of cells with equal totals."""

    name: str
    kind: Kind
    total: tuple[str, float] | None


def refuse_mixed(store: Store, layer: str | None, kind: Kind | None) -> list[str]:
    """Refuse files with different kinds of values, or prepared one by one; return warnings about other differences.

    A given kind holds for all files.
    """
    if len(store.shards) == 1:
        return []
    parts = store.parts()
    for part in parts:
        if part.is_prepared:
            raise DataError(
                f"{part.name!r} has been prepared already, and not as one with the other files; prepare the data that "
                "it came from together with theirs: diffvae.pp.prepare([...], out='prepared.h5ad')."
            )
    if kind is not None:
        return []
    values = [found for part in parts if (found := _examine(part, layer)) is not None]
    for other in values[1:]:
        if other.kind != values[0].kind:
            raise DataError(
                f"The values of {values[0].name!r} are {KIND_NAMES[values[0].kind]}, those of {other.name!r} "
                f"{KIND_NAMES[other.kind]}: give files of one kind, or say kind=... if they are."
            )
    logs = [one for one in values if one.total is not None]
    return [_other_logs(logs[0], one) for one in logs[1:] if not _alike(logs[0], one)][:1]


def _examine(part: Store, layer: str | None) -> _Values | None:
    """Examine a sample of a file; None where it has no values, or values that are refused anyway."""
    sample = part.matrix(layer).sample(SAMPLE, generator(0, "kind of a file"))
    summary = summarise(sample)
    if summary.n_bad or not summary.sample.size:
        return None
    found = tell_kind(sample, summary)[0]
    return _Values(part.name, found, unlogged_total(sample) if found == "log" else None)


def _alike(one: _Values, other: _Values) -> bool:
    (base, total), (other_base, other_total) = one.total or ("", 0.0), other.total or ("", 0.0)
    return base == other_base and abs(total - other_total) <= NEAR * max(total, other_total)


def _other_logs(one: _Values, other: _Values) -> str:
    (base, total), (other_base, other_total) = one.total or ("", 0.0), other.total or ("", 0.0)
    return (
        f"{one.name} holds {base}(x + 1) of cells that sum to {total:,.6g}, {other.name} {other_base}(x + 1) of cells "
        f"that sum to {other_total:,.6g}; pass counts, or logs on the same scale."
    )
