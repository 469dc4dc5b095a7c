"""The pieces of work of a comparison: what each needs, and the key by which a finished one is found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffvae import _measures, _random
from diffvae.benchmark import _work
from diffvae.benchmark._cells import Cells
from diffvae.benchmark._clusterers import check_clusterers
from diffvae.benchmark._jobs import Job
from diffvae.benchmark._methods import Method
from diffvae.benchmark._store import ARRAY, ROWS

SPACES = ("latent", "tsne")
IDENTITY = ["dataset", "method", "n_latent", "seed"]
METRICS = (*_work.OF_CLUSTERS, *_measures.OF_SPACE, *_work.OF_TRAINING)


@dataclass(frozen=True)
class Plan:
    """What is asked of each training: the same for all of them."""

    clusterers: tuple[str, ...]
    spaces: tuple[str, ...]
    k_given: tuple[bool, ...]
    n_clusterings: int
    metrics: tuple[str, ...]
    n_top_genes: int | None


def make_plan(
    clusterers: Sequence[str],
    spaces: Sequence[str],
    k_given: Sequence[bool],
    n_clusterings: int,
    metrics: Sequence[str],
    n_top_genes: int | None,
) -> Plan:
    """Return the plan; names that aren't known, and what leaves nothing to do, are refused."""
    check_clusterers(clusterers, k_given)
    for name, values, known in (("space", spaces, SPACES), ("metric", metrics, METRICS)):
        if unknown := [v for v in values if v not in known]:
            raise ValueError(f"{unknown[0]!r} is no {name}; they are {', '.join(map(repr, known))}.")
    if not spaces or n_clusterings < 1:
        raise ValueError(f"spaces={tuple(spaces)} and n_clusterings={n_clusterings} leave nothing to cluster.")
    return Plan(tuple(clusterers), tuple(spaces), tuple(k_given), n_clusterings, tuple(metrics), n_top_genes)


def require_positive(sizes: Sequence[int], n_trainings: int, n_workers: int | None, rng: Any) -> None:
    """Refuse numbers of which nothing comes, and a seed that can't be part of a key."""
    if not sizes or min(sizes) < 1 or n_trainings < 1 or (n_workers is not None and n_workers < 1):
        raise ValueError(f"n_latent={sizes}, n_trainings={n_trainings} and n_workers={n_workers} must be positive.")
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer) or rng < 0:
        raise ValueError(f"rng is {rng!r}; give a non-negative whole number, by which the pieces are known.")


Row = tuple[dict[str, Any], str, list[str]]
"""Identity of a training, the key of its result, and those of its clusterings."""


def plan_jobs(
    everything: Sequence[Cells], chosen: Sequence[Method], sizes: Sequence[int], n_trainings: int, plan: Plan, rng: int
) -> tuple[dict[str, Job], list[Row], dict[str, Any]]:
    """Return all pieces of work in the order in which one process does them best, and where the results will be.

    What belongs to one data set and seed stands together, so that its cells are prepared once and then let go.
    """
    jobs: dict[str, Job] = {}
    rows: list[Row] = []
    given: dict[str, Any] = {}
    how = digest(plan.clusterers, plan.k_given)
    for cells in everything:
        source = f"{slug(cells.name)}-{digest(cells.fingerprint)}"
        given[source] = cells
        for number in range(n_trainings):
            seed = _random.seed(rng, f"benchmark training {number}")
            prepared = f"{source}/s{number}-prepared"
            jobs[prepared] = Job(_work.prepare, (source,), (seed, plan.n_top_genes), keep=False)
            for method in chosen:
                for size in sizes:
                    about = method.describe(size)  # not the name: what is trained alike is trained once
                    mark = digest(cells.fingerprint, about, seed, plan.n_top_genes, version())
                    base = f"{source}/{slug(json.loads(about)['class'].split('.')[-1])}-{size}-s{number}-{mark}"
                    training = f"{base}/training-{digest(plan.metrics)}{ARRAY}"
                    jobs[training] = Job(_work.train, (prepared, source), (method, size, seed, plan.metrics))
                    pieces = []
                    if "latent" in plan.spaces:
                        pieces.append(f"{base}/latent-{how}-{plan.n_clusterings}{ROWS}")
                        asked = (plan.clusterers, plan.k_given, plan.n_clusterings)
                        jobs[pieces[-1]] = Job(_work.score_latent, (training, source), asked)
                    if "tsne" in plan.spaces:
                        p = f"{base}/affinities"
                        jobs[p] = Job(_work.affinities, (training,), (seed,), keep=False)
                        for i in range(plan.n_clusterings):
                            pieces.append(f"{base}/tsne-{how}-{i}{ROWS}")
                            asked_once = (plan.clusterers, plan.k_given, i, seed)
                            jobs[pieces[-1]] = Job(_work.score_map, (p, training, source), asked_once)
                    identity = dict(zip(IDENTITY, (cells.name, method.name, size, number), strict=True))
                    rows.append((identity, training, pieces))
    return jobs, rows, given


def digest(*parts: Any) -> str:
    """Return 12 hexadecimal digits by which a piece is known."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()[:12]


def slug(name: str) -> str:
    """Return a name that any file system takes; what tells two apart is the digest beside it."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._") else "_" for c in name)[:40]


def version() -> str:
    """Return the version of diffvae, since another one may compute something else."""
    from diffvae import __version__

    return __version__
