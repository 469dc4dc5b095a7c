"""Device, precision, moments: the choices and the sentences."""

import os
import subprocess
import sys

import pytest
import torch

from diffvae.train import best_device, best_precision
from diffvae.train._engine import LIBC, clear_denormal_moments

CPU = torch.device("cpu")


def test_best_device():
    assert best_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert best_device("cpu") == CPU


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_device_that_is_not_there(device):
    with pytest.raises(ValueError, match=f"device='{device}' can't be used here .*; device='auto' always works"):
        best_device(device)


def test_best_precision(monkeypatch):
    assert best_precision("float32", CPU) == torch.float32
    assert best_precision("bfloat16", CPU) == torch.bfloat16
    for capabilities, expected in (
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx2": True, "avx512_bf16": False}, torch.float32),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda capabilities=capabilities: capabilities)
        assert best_precision("auto", CPU) == expected


def test_unknown_precision():
    with pytest.raises(ValueError, match="precision is 'half'; it must be 'auto', 'float32' or 'bfloat16'"):
        best_precision("half", CPU)


def test_moments_below_all_use_are_cleared_and_others_are_not():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight])
    weight.grad = torch.ones(3)
    optimizer.step()
    optimizer.state[weight]["exp_avg"].copy_(torch.tensor([1e-39, -1e-31, -1e-29]))
    optimizer.state[weight]["exp_avg_sq"].copy_(torch.tensor([1e-40, 1e-29, 1.0]))
    clear_denormal_moments(optimizer)
    torch.testing.assert_close(optimizer.state[weight]["exp_avg"], torch.tensor([0.0, 0.0, -1e-29]), rtol=0, atol=0)
    torch.testing.assert_close(optimizer.state[weight]["exp_avg_sq"], torch.tensor([0.0, 1e-29, 1.0]), rtol=0, atol=0)


GLIBC = """
import os, resource, sys
import torch
from diffvae.train._engine import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(3):
    torch.ones(2**22)  # 16 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**22)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(LIBC, "gnu_get_libc_version"), reason="about glibc's own limits")
@pytest.mark.large  # two processes that import torch
def test_freed_memory_is_kept_where_somebody_has_fixed_the_limits():
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}  # as Dask starts workers
    faults = {}
    for way in ("keep", "leave"):
        run = subprocess.run([sys.executable, "-c", GLIBC, way], env=environment, check=True, capture_output=True)
        faults[way] = int(run.stdout)
    assert faults["leave"] > 150  # every block is handed out anew, in small pages or in large ones
    assert faults["keep"] < 50


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_step_on_a_gpu_waits_for_the_card():
    """Torch raises where the processor would wait; only the end of an epoch may, once."""
    import numpy as np

    from diffvae.model._config import from_preset
    from diffvae.model._objective import InfoVAEObjective
    from diffvae.nn import Autoencoder
    from diffvae.train import RowSource

    device = torch.device("cuda")
    module = Autoencoder(30, (16, 8), 4, input_dropout=0.5).to(device)
    source = RowSource(np.random.default_rng(0).random((64, 30), np.float32), device)
    objective, noise = InfoVAEObjective(from_preset("default", {})), torch.Generator(device)
    optimizer = torch.optim.Adam(module.parameters(), fused=True)
    for strict in (False, True):  # the first step chooses kernels
        torch.cuda.set_sync_debug_mode("error" if strict else "default")
        try:
            rows = np.arange(0, 64, 2)
            objective(module, source.rows(rows), rows, noise)["loss"].backward()
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
