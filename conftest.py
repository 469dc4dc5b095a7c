"""Settings of the tests and of the docstring examples."""

import os
import sys
from pathlib import Path

import pytest

# Threads that wait by spinning take the cores from those that work. OpenMP reads this once, before it starts.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# No test opens a window.
os.environ.setdefault("MPLBACKEND", "agg")

# Test processes share the cores instead of each taking all of them.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(share, 1)))


@pytest.fixture(autouse=True)
def closed_figures():
    """Close the figures of a test or an example; pyplot warns of more than 20."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture(autouse=True)
def pipeline_example(request, monkeypatch, tmp_path_factory):
    """Run an example of the pipeline in an empty folder and with empty figures, which would take most of its time."""
    if isinstance(request.node, pytest.DoctestItem) and "pipeline.run(" in request.node.dtest.docstring:
        import diffvae as dv

        monkeypatch.chdir(tmp_path_factory.mktemp("example"))
        for name in dv.pl.__all__:
            monkeypatch.setattr(dv.pl, name, lambda *args, **options: None)
        monkeypatch.setattr(dv.pl, "save", lambda figure, path: Path(path).with_suffix(".png").touch())
