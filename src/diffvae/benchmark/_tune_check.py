"""What a search refuses before it begins, and by what its cells are known again."""

from __future__ import annotations

import hashlib
import importlib.util
from typing import TYPE_CHECKING

from diffvae.benchmark._tune_objective import CLUSTERED, OBJECTIVES
from diffvae.benchmark._tune_space import Space, make_space

if TYPE_CHECKING:
    from anndata import AnnData


def check_options(
    n_trials: int,
    space: str,
    objective: str,
    preset: str,
    label_key: str | None,
    n_clusters: int | None,
    n_trainings: int | None,
    n_repeats: int,
    max_epochs: int | None,
) -> Space:
    """Refuse what can't work before anything is read or written, and return the space."""
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is {objective!r}; it is one of {', '.join(map(repr, OBJECTIVES))}.")
    searched = make_space(space, preset, max_epochs)
    if objective == "validation_loss" and space == "wide":
        raise ValueError(
            "Validation losses under different weights of KL and MMD are different measures, so space='wide' can't be "
            "searched by objective='validation_loss'; take 'elbo' (reconstruction and KL with weight 1), 'stability' "
            "or 'ari', or space='paper'."
        )
    if (objective == "ari") != (label_key is not None):
        told = "needs labels; name their column of obs" if label_key is None else "looks at no labels; leave out"
        raise ValueError(f"objective={objective!r} {told} (label_key).")
    if n_clusters is not None and objective not in CLUSTERED:
        raise ValueError(f"n_clusters is {n_clusters}, but objective={objective!r} makes no clusters; leave it out.")
    fewest = 2 if objective == "stability" else 1
    for name, value, least in (
        ("n_trials", n_trials, 1),
        ("n_repeats", n_repeats, 0),
        ("n_clusters", n_clusters, 2),
        ("n_trainings", n_trainings, fewest),
        ("max_epochs", max_epochs, 1),
    ):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}; it must be {least} or more.")
    return searched


def require_optuna() -> None:
    if importlib.util.find_spec("optuna") is None:
        raise ImportError('The search needs optuna, which is not installed; run: pip install "diffvae[tune]"')


def mark_of(cells: AnnData) -> str:
    """Return 16 hexadecimal digits that tell the cells and genes of one search from those of another.

    Names only: the values of one file differ in the last digit from machine to machine.
    """
    digest = hashlib.sha256()
    for names in (cells.obs_names, cells.var_names):
        digest.update("\n".join(map(str, names)).encode() + b"\0")
    return digest.hexdigest()[:16]
