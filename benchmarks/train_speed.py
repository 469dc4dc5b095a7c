"""Training speed: cells per second of our loop divided by those of a plain loop, in one process, at equal loss.

The plain loop is eager float32 with ``torch.optim.Adam`` and the textbook loss, at the paper's size (1422 cells x 1845
genes, 512-256-50, batch 128, 100 epochs). Prints this ratio, the ratio with denormals flushed in the plain loop (the
one-line optimisation that a user could make), and the share of the peak rate of matrix products. The best round counts;
from the second round on the plain loop benefits from freed memory that our loop makes the C library keep. Run it on an
otherwise idle machine: ``python benchmarks/train_speed.py [--epochs 100]``. With ``--device cuda`` it compares a step
with the lower bound for the device (floor.py).
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

import diffvae as dv
from diffvae.model._config import from_preset
from diffvae.model._objective import InfoVAEObjective
from diffvae.nn import Autoencoder, imq_kernel
from diffvae.train import RowSource, best_precision, fit

N_CELLS, N_GENES, BATCH, LR = 1422, 1845, 128, 1e-3
HIDDEN, N_LATENT = (512, 256), 50


def data() -> torch.Tensor:
    """Simulate cells of the paper's size and prepare them with the package."""
    adata = dv.datasets.simulate_differentiation(N_CELLS, N_GENES, rng=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dv.pp.prepare(adata, n_top_genes=None)
    unit = adata.layers["unit"]
    return torch.from_numpy(unit.toarray() if hasattr(unit, "toarray") else unit)


def network(n_genes: int) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(n_genes, HIDDEN, N_LATENT)


def textbook_mmd(z: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    kernel, n = imq_kernel(z.shape[1]), len(z)

    def k(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return kernel(a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T)

    off_diagonal = 1 - torch.eye(n)
    within = ((k(z, z) + k(prior, prior)) * off_diagonal).sum() / (n * (n - 1))
    return within - 2 * k(z, prior).mean()


def obvious(x: torch.Tensor, epochs: int) -> tuple[float, float, np.ndarray]:
    """Train with the plain loop; return seconds, final loss and latent representation."""
    config = from_preset("default", {})
    net = network(x.shape[1])
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)
    start = time.perf_counter()
    for _ in range(epochs):
        net.train()
        total = 0.0
        for rows in torch.randperm(len(x)).split(BATCH):
            batch = x[rows]
            mu, logvar = net.encoder(batch)
            z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
            nll = F.binary_cross_entropy_with_logits(net.decoder(z), batch, reduction="none").sum(1).mean()
            kl = (0.5 * (mu**2 + logvar.exp() - 1 - logvar)).sum(1).mean()
            mmd = textbook_mmd(z, torch.randn_like(z)) if len(z) > 1 else 0.0
            loss = nll + config.kl_weight * kl + config.mmd_weight * mmd
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
    seconds = time.perf_counter() - start
    return seconds, total / len(x), latent(net, x)


def obvious_flushed(x: torch.Tensor, epochs: int) -> tuple[float, float, np.ndarray]:
    """Train with the plain loop after ``torch.set_flush_denormal(True)``, which affects only the calling thread."""
    torch.set_flush_denormal(True)
    try:
        return obvious(x, epochs)
    finally:
        torch.set_flush_denormal(False)


def ours(x: torch.Tensor, epochs: int) -> tuple[float, float, np.ndarray]:
    """Train with the package's loop; return the same values."""
    net = network(x.shape[1])
    source = RowSource(x.numpy())
    start = time.perf_counter()
    history = fit(
        net,
        source,
        InfoVAEObjective(from_preset("default", {})),
        train_rows=np.arange(len(x)),
        validation_rows=np.arange(0),
        max_epochs=epochs,
        batch_size=BATCH,
        lr=LR,
        precision=best_precision("auto", source.device),
        progress=False,
    )
    seconds = time.perf_counter() - start
    return seconds, float(history["train_loss"].iloc[-1]), latent(net, x)


@torch.no_grad()
def latent(net: Autoencoder, x: torch.Tensor) -> np.ndarray:
    net.eval()
    return net.encoder(x)[0].numpy()


def peak(dtype: torch.dtype, size: int = 2048) -> float:
    """Return matrix-product operations per second, the best of ten runs."""
    a = torch.randn(size, size).to(dtype)
    best = 0.0
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def operations_per_cell() -> float:
    """Return the operations of forward and backward passes; a multiply-add counts as two."""
    h1, h2 = HIDDEN
    first = N_GENES * h1
    rest = h1 * h2 + 2 * h2 * N_LATENT + N_LATENT * h2 + h2 * h1 + h1 * N_GENES
    return 2 * (2 * first + 3 * rest)


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    from diffvae.tl._cluster import kmeans

    return dv.metrics.adjusted_rand_index(kmeans(a, 8, 0), kmeans(b, 8, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", help="measure a step on it beside its floor instead; see floor.py")
    arguments = parser.parse_args()
    if arguments.device:
        import floor

        floor.main(arguments.device)
        return
    x = data()
    ways: dict[str, Callable[[torch.Tensor, int], tuple[float, float, np.ndarray]]] = {
        "obvious": obvious,
        "flushed": obvious_flushed,
        "ours": ours,
    }
    for way in ways.values():
        way(x, 1)  # threads and caches
    runs: dict[str, list[tuple[float, float, np.ndarray]]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):  # in turn, so that a disturbance hits both
        for name, way in ways.items():
            runs[name].append(way(x, arguments.epochs))
    seconds = {name: min(r[0] for r in found) for name, found in runs.items()}
    loss = {name: found[0][1] for name, found in runs.items()}
    rate = {name: len(x) * arguments.epochs / s for name, s in seconds.items()}
    dtype = best_precision("auto", torch.device("cpu"))
    top = peak(dtype)
    print(f"obvious loop     {rate['obvious']:9.0f} cells/s, final loss {loss['obvious']:.2f}")
    print(f"  and flushed    {rate['flushed']:9.0f} cells/s, final loss {loss['flushed']:.2f}")
    print(f"diffvae          {rate['ours']:9.0f} cells/s, final loss {loss['ours']:.2f} ({dtype})")
    print(
        f"ratio            {rate['ours'] / rate['obvious']:9.2f} x ({rate['ours'] / rate['flushed']:.2f} x the flushed)"
    )
    print(f"loss difference  {abs(loss['ours'] / loss['obvious'] - 1):9.2%}")
    print(
        f"clusters         ARI {agreement(runs['ours'][0][2], runs['obvious'][0][2]):.2f} between the two, "
        f"{agreement(runs['obvious'][0][2], runs['obvious'][-1][2]):.2f} between two runs of the obvious loop"
    )
    print(f"peak             {top / 1e9:9.0f} GFLOP/s; reached {rate['ours'] * operations_per_cell() / top:.0%} of it")


if __name__ == "__main__":
    main()
