"""Device, precision, denormals: the choices, the sentences, and nothing left behind."""

import _thread
import threading
import time

import pytest
import torch

from diffvae.train import best_device, best_precision, run_flushing_denormals

CPU = torch.device("cpu")


def is_flushed():
    return (torch.tensor([1e-39]) * 1).item() == 0


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
    with pytest.raises(ValueError, match="precision is 'half'; it is one of auto, float32, bfloat16"):
        best_precision("half", CPU)


def test_denormals_are_flushed_inside_and_not_outside():
    assert not is_flushed()
    assert run_flushing_denormals(lambda stop: is_flushed())
    assert not is_flushed()


@pytest.mark.skipif(torch.get_num_threads() < 2, reason="one thread")
def test_denormals_are_flushed_in_the_threads_of_torch_too():
    large = torch.full((4_000_000,), 1e-39)
    assert run_flushing_denormals(lambda stop: int((large * 1).count_nonzero())) == 0
    assert int((large * 1).count_nonzero()) == len(large)


def test_result_and_exception_come_back():
    assert run_flushing_denormals(lambda stop: (stop.is_set(), threading.current_thread().name)) == (
        False,
        "diffvae-train_0",
    )
    for error in (KeyError("here"), KeyboardInterrupt(), SystemExit(3)):

        def fail(stop, error=error):
            raise error

        with pytest.raises(type(error)) as caught:
            run_flushing_denormals(fail)
        assert caught.value is error
    assert not any(thread.name.startswith("diffvae-train") for thread in threading.enumerate())


def test_work_is_told_to_stop_when_the_caller_is_interrupted():
    told = []

    def work(stop):
        _thread.interrupt_main()  # what Ctrl-C does
        told.append(stop.wait(5))

    with pytest.raises(KeyboardInterrupt):
        run_flushing_denormals(work)
    while not told:
        time.sleep(0.01)
    assert told == [True]
