"""Tasks of each process in the tests of distributed training: ``torchrun tests/_together.py TASK FOLDER``."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
from _model_data import TINY, prepared

from diffvae._errors import DataError
from diffvae.model import VAE, AutoEncoder, DiffVAE
from diffvae.train import TrainingError, processes

OPTIONS = {"max_epochs": 6, "precision": "float32", "device": "cpu", "progress": False}
CASES = {
    "default": (lambda: DiffVAE(**TINY), {}),
    "dropout": (lambda: DiffVAE(**TINY, dropout=0.3), {"patience": 2, "lr": 0.02, "max_epochs": 20}),
    "paper": (lambda: DiffVAE("paper", **TINY), {}),
    "code": (lambda: DiffVAE("code", **TINY), {}),
    "gaussian": (lambda: VAE(**TINY, likelihood="gaussian"), {"validation_size": 0.0}),
    "batches": (lambda: DiffVAE(**TINY), {"batch_key": "batch", "covariates": ["depth"]}),
    "plain": (lambda: AutoEncoder(**TINY, batch_norm=False), {}),
}  # fmt: skip
BATCH = 11
"""Cells per process and step. 80 training cells make four batches of 20; the number of validation cells is odd."""


def train(case, batch_size, **kwargs):
    make, options = CASES[case]
    cells = prepared()[:99].copy()
    cells.obs["batch"] = np.array(["a", "b", "c"])[np.arange(99) % 3]
    cells.obs["depth"] = np.linspace(0, 1, 99)
    return make().train(cells, batch_size=batch_size, **{**OPTIONS, **options, **kwargs})


def all_cases(share, folder):
    for case in CASES:
        model = train(case, BATCH)
        np.savez(folder / f"{case}_{share.rank}.npz", **{k: v.numpy() for k, v in model.module.state_dict().items()})
        model.history.to_csv(folder / f"{case}_{share.rank}.csv")


def one_dies(share, folder):
    def die(epoch):
        if share.rank == 1 and epoch.number == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    train("default", BATCH, max_epochs=500, on_epoch=die)


def others_differ(share, folder):
    try:
        train("default", BATCH, lr=0.01 * (1 + share.rank))
    except DataError as error:
        (folder / f"differ_{share.rank}").write_text(str(error))


def one_is_stopped(share, folder):
    """Send SIGTERM to rank 1 at the end of the third epoch, so that rank 0 loses it in the fourth."""

    def stop(epoch):
        if share.rank == 1 and epoch.number == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        train("default", BATCH, on_epoch=stop, checkpoint=folder / "c", checkpoint_every=None, max_epochs=12)
    except (SystemExit, TrainingError) as error:
        (folder / f"left_{share.rank}").write_text(str(error))


def everything(share, folder):
    """Run all tasks in one launch, because a launch takes seconds; the last task ends the group."""
    all_cases(share, folder)
    others_differ(share, folder)
    one_is_stopped(share, folder)


if __name__ == "__main__":
    with processes("cpu") as share:
        globals()[sys.argv[1]](share, Path(sys.argv[2]))
