"""Threads: the same seed gives the same result with any number of them, to the last digit; the log of steps."""

import os
import signal
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from threadpoolctl import threadpool_info

import diffvae as dv
from diffvae._core import runtime
from diffvae.train import RowSource

THREADS = (1, 3)


@pytest.fixture
def with_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.slow
def test_a_whole_run_is_the_same_with_any_number_of_threads_and_processes(with_threads, tmp_path, no_figures):
    cells = dv.datasets.simulate_differentiation(150, 100, rng=0)
    options = {"label_key": "cell_type", "markers": {"red": ["gene_001", "gene_002"]}, "source": "HSPC"}
    options |= {"target": ["MEP"], "max_epochs": 10, "n_latent": 8, "device": "cpu", "progress": False}
    found = []
    for n in THREADS:
        with_threads(n)
        found.append(dv.pipeline.run(cells, **options))
        assert torch.get_num_threads() == n  # what was set before is set again
    found[-1:] = [dv.pipeline.run(cells, tmp_path / str(n), n_jobs=n, **options) for n in (1, 2)]
    tables = sorted(path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*.csv"))
    assert len(tables) > 15
    for table in tables:
        assert (tmp_path / "1" / table).read_bytes() == (tmp_path / "2" / table).read_bytes(), table
    first, *others = found
    for other in others:
        for key in ("X_diffvae", "X_diffvae_tsne", "X_diffvae_graph", "X_diffvae_link"):
            np.testing.assert_array_equal(first.adata.obsm[key], other.adata.obsm[key])
        assert other.changes.perturbation.adata is other.adata
        assert set(other.adata.uns["diffvae"]) == set(first.adata.uns["diffvae"])
        assert set(other.summary["seconds"]) == set(first.summary["seconds"])
        assert other.summary["warnings"] == first.summary["warnings"]
        pd.testing.assert_frame_equal(first.adata.obs, other.adata.obs, check_exact=True)
        pd.testing.assert_frame_equal(first.clusters, other.clusters, check_exact=True)
        pd.testing.assert_frame_equal(first.changes.targets, other.changes.targets, check_exact=True)
        pd.testing.assert_frame_equal(first.links.called, other.links.called, check_exact=True)


def test_a_model_alone_is_the_same(with_threads):
    cells = dv.datasets.simulate_differentiation(200, 400, rng=0)
    dv.pp.prepare(cells, n_top_genes=None)
    dv.pp.cell_graph(cells, k=5)
    quick = {"device": "cpu", "progress": False}
    found = []
    for n in THREADS:
        with_threads(n)
        model = dv.model.DiffVAE(n_latent=20).train(cells, max_epochs=4, **quick)
        z = model.get_latent_representation()
        graph = dv.model.GraphDiffVAE().train(cells, max_epochs=4, **quick)
        kinds = dv.model.CellStateClassifier().train(cells, "cell_type", max_epochs=3, **quick)
        found.append([z, model.decode(z), model.gene_weights(), model.gene_jacobian(z[:50])])
        found[-1] += [graph.get_latent_representation(), kinds.predict_proba(cells), model.diagnose().dimensions]
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            if isinstance(one, pd.DataFrame):
                pd.testing.assert_frame_equal(one, same, check_exact=True)
            else:
                np.testing.assert_array_equal(one, same)


def test_large_steps_have_all_threads_also_within_what_has_one(with_threads):
    with_threads(3)
    small, seen = torch.nn.Linear(10, 10), []

    class Large(torch.nn.Linear):
        def parameters(self, recurse=True):
            return iter([torch.empty(int(runtime.LARGE_STEP), device="meta")])

    def see(module, n_rows, other_products=0):
        with runtime.for_steps(n_rows, module, other_products):
            seen.append(torch.get_num_threads())

    see(small, 100)
    see(Large(1, 1), 2)
    runtime.in_one_thread(lambda: (see(small, 100), see(Large(1, 1), 2)))()
    with runtime.one_thread(large_steps_too=True):
        see(Large(1, 1), 2)
    see(small, 100, int(runtime.LARGE_STEP))
    assert seen == [1, 3, 1, 3, 1, 3]


def test_blas_has_one_thread_within_and_those_of_before_after_an_error():
    def limits():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = limits()

    @runtime.in_one_thread
    def fail():
        assert set(limits()) <= {1}
        raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert limits() == before


def test_a_training_of_small_steps_takes_one_thread(with_threads):
    with_threads(4)
    seen = []

    def objective(module, x, rows, generator):
        seen.append(torch.get_num_threads())
        return {"loss": module(x).square().mean()}

    x = RowSource(np.ones((20, 3), np.float32), torch.device("cpu"))
    rows = np.arange(20)
    dv.train.fit(torch.nn.Linear(3, 3), x, objective, train_rows=rows, validation_rows=rows[:0], max_epochs=1)
    assert set(seen) == {1}
    assert torch.get_num_threads() == 4


class ConversionWarning(UserWarning):
    """Stands for a warning of this package."""

    __module__ = "diffvae.tl._perturb"


class LibraryWarning(UserWarning):
    """Stands for a library's warning about its internals."""


def test_the_step_log_has_seconds_and_each_warning_of_this_package_once():
    steps = []
    log = runtime.StepLog(steps.append)
    for name in ("read", "train"):
        with log.step(name):
            warnings.warn("plain", UserWarning, stacklevel=1)
            warnings.warn("of a subclass", ConversionWarning, stacklevel=1)
            warnings.warn("of a library", LibraryWarning, stacklevel=1)
    assert steps == list(log.seconds) == ["read", "train"]
    assert log.warnings == ["plain", "of a subclass"]


def test_the_step_log_has_the_warnings_of_a_step_that_raises():
    log = runtime.StepLog(lambda name: None)
    with pytest.raises(KeyError), log.step("train"):  # noqa: PT012 - the warning comes before the error
        warnings.warn("before the error", UserWarning, stacklevel=1)
        raise KeyError
    assert log.warnings == ["before the error"]
    assert list(log.seconds) == ["train"]


def interrupted(times):
    """Return how far a block of `uninterrupted` came that is interrupted so many times, and whether that was raised."""
    done = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with runtime.uninterrupted():
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
                done.append("went on")
    except KeyboardInterrupt:
        done.append("raised")
    finally:
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, before)
    return done


@pytest.mark.parametrize(("times", "expected"), [(0, []), (1, ["went on", "raised"]), (2, ["went on", "raised"])])
def test_ctrl_c_waits_for_the_end_of_a_block_unless_it_is_pressed_again(times, expected):
    assert interrupted(times) == expected
