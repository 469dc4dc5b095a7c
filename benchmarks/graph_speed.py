"""One step of Graph-DiffVAE, compared with the textbook algorithm (dense adjacency, dense N x N loss).

Both run in one process with the same weights, noise and edges, and must give the same loss and gradients. Prints the
time of the textbook algorithm divided by ours.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

import diffvae as dv
from diffvae import nn
from diffvae._core import graphs
from diffvae.model._config import graph_config
from diffvae.model._graph_training import GraphAutoencoder, GraphObjective, WholeGraph
from diffvae.train import RowSource


def textbook(module, x, adjacency, target, generator, kl_weight):
    """Return the loss of eq 22 in its usual dense form."""
    enc, dec = module.encoder, module.decoder
    h = F.relu(adjacency @ (x @ enc.first.linear.weight.T) + enc.first.bias)
    mu, logvar = (adjacency @ (h @ enc.heads.linear.weight.T) + enc.heads.bias).chunk(2, dim=1)
    logvar = logvar.clamp(-12, 4)
    z = mu + torch.exp(0.5 * logvar) * torch.randn(mu.shape, generator=generator)
    weight = torch.cat([dec.first.linear.weight, dec.expression.weight], dim=1)
    h = F.relu(adjacency @ (torch.cat([z, x], dim=1) @ weight.T) + dec.first.bias)
    z = 0.5 * (z + adjacency @ (h @ dec.last.linear.weight.T) + dec.last.bias)
    n, n_edges = len(x), target.sum() / 2
    n_pairs = n * (n - 1) / 2
    positive = (n_pairs - n_edges) / n_edges
    nll = F.binary_cross_entropy_with_logits(z @ z.T, target, pos_weight=positive, reduction="none")
    links = (nll.sum() - nll.diagonal().sum()) / 2 / (positive * n_edges + n_pairs - n_edges)
    kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum() / n
    return links + kl_weight * kl / n


def seconds(step, n_rounds: int) -> float:
    step()
    times = []
    for _ in range(n_rounds):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)


def compare(n_cells: int, n_genes: int, n_rounds: int) -> None:
    adata = dv.datasets.simulate_differentiation(n_cells, n_genes)
    dv.pp.prepare(adata, n_top_genes=None)
    dv.pp.cell_graph(adata, k=1, progress=False)
    graph = graphs.undirected(adata.obsp["cell_graph"])
    config = graph_config("default", {})
    torch.manual_seed(0)
    module = GraphAutoencoder(adata.n_vars, config)
    propagation = nn.normalized_adjacency(graph)
    source = RowSource(adata.layers["unit"])
    batches = WholeGraph(source, propagation, graphs.edges_of(graph), precision=torch.float32, paired=n_cells)
    (batch,) = batches.epoch(np.random.default_rng(0))
    x = source.rows(np.arange(n_cells))
    objective = GraphObjective(config)
    dense, target = torch.from_numpy(propagation.toarray()), torch.from_numpy(graph.toarray())
    losses = {
        "ours": lambda: objective(module, batch, torch.Generator().manual_seed(0))["loss"],
        "textbook": lambda: textbook(module, x, dense, target, torch.Generator().manual_seed(0), config.kl_weight),
    }
    found, took = {}, {}
    optimizer = torch.optim.Adam(module.parameters(), lr=0.0)  # moves nothing, but costs what it costs

    for name, loss in losses.items():

        def step(loss=loss):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            optimizer.step()
            return value

        value = step()
        found[name] = value.detach().double(), [p.grad.clone() for p in module.parameters()]
        took[name] = seconds(step, n_rounds)
    (a, ours), (b, theirs) = found["ours"], found["textbook"]
    gradient = max(float((g - h).norm() / h.norm()) for g, h in zip(ours, theirs, strict=True))
    print(
        f"{n_cells:,} cells x {adata.n_vars:,} genes: ours {took['ours']:.3f} s, textbook {took['textbook']:.3f} s, "
        f"ratio {took['textbook'] / took['ours']:.2f}; loss {float(abs(a - b) / b):.1e} apart, gradient {gradient:.1e}"
    )


if __name__ == "__main__":
    sizes = [(1422, 1845, 10), (10_000, 1845, 2)]
    for size in sizes[: int(sys.argv[1])] if len(sys.argv) > 1 else sizes:
        compare(*size)
