"""Did tuning gain anything? Default and best are trained again, with seeds and held-out cells that chose neither."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffvae import _keys, _random, pp
from diffvae.benchmark._tune_objective import Judge
from diffvae.benchmark._tune_space import Space
from diffvae.train import TrainingError

if TYPE_CHECKING:
    import optuna
    from anndata import AnnData

COLUMNS = ["configuration", "trial", "repeat", "value"]


def confirm(
    study: optuna.Study,
    space: Space,
    judge: Judge,
    raw: AnnData,
    points: Mapping[int, Mapping[str, Any]],
    n_repeats: int,
    preparation: Mapping[str, Any],
    seed: int,
) -> pd.DataFrame:
    """Train trials again, each with the same new seeds, which draw new held-out cells as well.

    The best of many trials is partly the luckiest, on these held-out cells; neither luck comes twice. What has been
    computed is kept in the study, so that an interrupted confirmation goes on.

    Parameters
    ----------
    points
        Number of a trial to its parameters; the first, 0, is the default.
    preparation
        Further arguments of :func:`diffvae.pp.prepare`.

    Returns
    -------
    One row per trial and repeat: ``configuration`` ("default", "best"), ``trial``, ``repeat``, ``value`` (NaN where
    the training diverged).
    """
    rows = []
    for repeat in range(n_repeats):
        own = _random.seed(seed, "again", str(repeat))
        missing = [number for number in points if _key(number, repeat) not in study.user_attrs]
        if missing:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # said of the first preparation
                cells = pp.prepare(raw, rng=own, copy=True, **preparation)
            assert cells is not None
            n_train = int((cells.obs[_keys.SPLIT] == "train").sum())
            for number in missing:
                try:
                    value, _ = judge.score(cells, space.settings(points[number], n_train), own)
                except TrainingError:
                    value = float("nan")
                study.set_user_attr(_key(number, repeat), value if np.isfinite(value) else None)
        for number in points:
            value = study.user_attrs[_key(number, repeat)]
            name = "best" if number else "default"
            rows.append((name, number, repeat, np.nan if value is None else float(value)))
    return pd.DataFrame(rows, columns=COLUMNS)


def _key(number: int, repeat: int) -> str:
    return f"again {number} {repeat}"
