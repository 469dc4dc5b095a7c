"""Trees of cell types: a nested mapping in, parents and children out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

Tree = Mapping[str, Any]
"""``{parent: {child: {...}, child: None}}``; children without children may also be a list of names."""

HEMATOPOIESIS: Tree = {
    "HSPC": {
        "MEP": ["Erythrocyte", "Thrombocyte"],
        "GMP": ["Neutrophil", "Monocyte"],
        "Lymphocyte": None,
    }
}
"""The default: one stem cell, two intermediate progenitors and five mature types."""

HEMATOPOIESIS_ABUNDANCE = {
    "HSPC": 0.18,
    "MEP": 0.12,
    "GMP": 0.12,
    "Erythrocyte": 0.19,
    "Thrombocyte": 0.07,
    "Neutrophil": 0.16,
    "Monocyte": 0.10,
    "Lymphocyte": 0.06,
}


def parents_of(tree: Tree) -> dict[str, str | None]:
    """Return the parent of every type, parents before children, ``None`` for the root.

    Raises
    ------
    ValueError
        If there is not exactly one root or one name stands in two places (which a cycle also is).

    Examples
    --------
    >>> parents_of({"stem": {"early": ["red", "white"], "late": None}})
    {'stem': None, 'early': 'stem', 'red': 'early', 'white': 'early', 'late': 'stem'}
    """
    if not isinstance(tree, Mapping) or len(tree) != 1:
        roots = list(tree) if isinstance(tree, Mapping) else tree
        raise ValueError(
            f"A tree is a mapping with one root, such as {{'stem': ['red', 'white']}}; this one has {roots!r} on top."
        )
    parents: dict[str, str | None] = {}
    for name, parent in _walk(tree, None):
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(f"{name!r} can't name a cell type: names are strings, not empty and without '/'.")
        if name in parents:
            raise ValueError(f"{name!r} stands in the tree twice (or above itself); every type has one place.")
        parents[name] = parent
    return parents


def _walk(children: Any, parent: str | None) -> Iterator[tuple[Any, str | None]]:
    # Lazy: the caller stops at the first repeated name, so that a mapping that contains itself ends too.
    if children is None:
        return
    if isinstance(children, Mapping):
        for name, below in children.items():
            yield name, parent
            yield from _walk(below, name)
    elif isinstance(children, Sequence) and not isinstance(children, str):
        for name in children:
            yield name, parent
    else:
        raise ValueError(f"The children of {parent!r} are {children!r}; give a mapping, a list of names or None.")


def path_to(parents: Mapping[str, str | None], name: str) -> list[str]:
    """Return the types from the root to a type, both included."""
    path = [name]
    while (above := parents[path[-1]]) is not None:
        path.append(above)
    return path[::-1]


def nested(parents: Mapping[str, str | None], name: str | None = None) -> dict[str, Any]:
    """Return the tree as plain nested dictionaries, whatever mix of mappings and lists it was given as."""
    return {child: nested(parents, child) for child, parent in parents.items() if parent == name}


def adjacency(parents: Mapping[str, str | None]) -> pd.DataFrame:
    """Return the types x types table that is true where the row is the parent of the column."""
    import pandas as pd

    names = list(parents)
    table = pd.DataFrame(np.zeros((len(names), len(names)), dtype=bool), index=names, columns=names)
    for child, parent in parents.items():
        if parent is not None:
            table.loc[parent, child] = True
    return table
