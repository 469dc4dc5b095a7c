"""The pieces of work of a reproduction: what each needs, and the key by which a finished one is found again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from diffvae.benchmark import _reproduce_changes as changes
from diffvae.benchmark import _reproduce_links as links
from diffvae.benchmark import _reproduce_train as train
from diffvae.benchmark._jobs import Job
from diffvae.benchmark._methods import Method, methods
from diffvae.benchmark._paired import compare
from diffvae.benchmark._plan import digest, slug, version
from diffvae.benchmark._reproduce_claim import METHOD_OF, OTHERS
from diffvae.benchmark._reproduce_subject import Subject
from diffvae.benchmark._reproduce_tables import CHANGES, CLUSTERS, LINKS, PRESETS
from diffvae.benchmark._run import run
from diffvae.benchmark._store import ROWS

CLUSTERERS = ("kmeans", "dbscan", "gmm")
"""The rows of Table 2, and those that its caption names."""
METRICS = ("ari", "nmi", "overlap", "knn_purity", "active_dimensions")
PAPERS = ("kmeans", "dbscan")
"""The rows alone: over these DiffVAE is compared with the others."""
Keys = dict[tuple[str, str, int], str]


def plan(subject: Subject, n_trainings: int, max_epochs: int | None, rng: int) -> tuple[dict[str, Job], Keys]:
    """Return all pieces in the order in which one process does them best, and where each part's result will be."""
    from diffvae.model import DiffVAE, GraphDiffVAE

    jobs: dict[str, Job] = {}
    keys: Keys = {}
    about = (
        subject.fingerprint,
        subject.label_key,
        subject.n_top_genes,
        subject.n_latent,
        subject.batch_size,
        version(),
    )
    base = f"{slug(subject.name)}-{digest(*about)}"
    for number in range(n_trainings):
        seed, first = train.training_seed(rng, number), number == 0
        prepared = f"{base}/s{number}-prepared"
        jobs[prepared] = Job(train.prepare, ("subject",), (seed,), keep=False)

        def add(part: str, preset: str, job: Job, *what: Any, number: int = number) -> None:
            key = f"{base}/{part}-{preset}-s{number}-{digest(*what)}{ROWS}"
            jobs[key], keys[part, preset, number] = job, key

        for preset in PRESETS:
            params = DiffVAE(preset, n_latent=subject.n_latent).get_params()
            mark = (params, max_epochs, seed)
            trained = f"{base}/{preset}-s{number}-trained-{digest(*mark)}"
            jobs[trained] = Job(train.train, (prepared, "subject"), (preset, max_epochs, seed), keep=False)
            how = (subject.clusterer, subject.reading, train.WIDER, train.MAX_Q, train.N_PERMUTATIONS)
            add(CLUSTERS, preset, Job(train.identify, (trained, "subject"), (preset, seed)), *mark, *how)
            if subject.source is not None and subject.targets:
                asked = (preset, max_epochs, seed, first)
                shift = (
                    subject.source,
                    changes.STEPS,
                    changes.N_DIMS,
                    changes.n_random(subject),
                    changes.HOW,
                    changes.GENES,
                )
                add(CHANGES, preset, Job(changes.change, (trained, "subject"), asked), *mark, *shift, first)
        for preset in links.K if subject.label_key is not None else ():
            params = GraphDiffVAE(preset).get_params()
            asked = (preset, max_epochs, seed, first)
            add(LINKS, preset, Job(links.link, (prepared, "subject"), asked), params, links.K, links.TOP_K, *asked)
    return jobs, keys


def table_2(
    subject: Subject,
    n_latent: Sequence[int],
    n_trainings: int,
    n_clusterings: int,
    max_epochs: int | None,
    folder: Path | None,
    n_workers: int | None,
    rng: int,
    progress: bool,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the runs of Table 2 and the paired differences of each preset from the paper's other methods."""
    assert subject.label_key is not None
    known = methods()
    chosen = {name: _limited(known[name], max_epochs) for name in (*METHOD_OF.values(), *OTHERS.values())}
    found = run(
        {subject.name: subject.adata},
        chosen,
        label_key=subject.label_key,
        n_latent=n_latent,
        clusterers=CLUSTERERS,
        n_trainings=n_trainings,
        n_clusterings=n_clusterings,
        metrics=METRICS,
        n_top_genes=subject.n_top_genes,
        out=None if folder is None else folder / "table2",
        n_workers=n_workers,
        rng=rng,
        progress=progress,
    ).table
    papers = found[found["clusterer"].isin(PAPERS)]
    there, rest = set(papers["method"]), tuple(OTHERS.values())
    parts = [compare(papers, name, by=[], rng=rng) for name in METHOD_OF.values() if name in there]
    paired = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["method"])
    return found, paired[paired["method"].isin(rest)].reset_index(drop=True)


def _limited(method: Method, max_epochs: int | None) -> Method:
    """Return a method with fewer epochs; PCA has none."""
    if max_epochs is None or method.name.startswith("PCA"):
        return method
    return Method(method.name, method.make, {**method.options, "max_epochs": max_epochs})
