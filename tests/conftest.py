import functools
import signal
import sys

import pytest

SHARED = {
    **dict.fromkeys(("test_pipeline.py", "test_report.py", "test_report_browser.py", "test_cli_width.py"), "demo"),
    **dict.fromkeys(("test_changes.py", "test_linking.py"), "fork"),
    "test_pipeline_integration.py": "demo",  # its folder is opened in the browser too
    **dict.fromkeys(("test_core_neighbors.py", "test_pp_cell_graph.py"), "neighbours"),
    **dict.fromkeys(
        ("test_model_classifier.py", "test_tl_change.py", "test_tl_minimal_genes.py", "test_tl_perturb.py"), "states"
    ),
    **dict.fromkeys(("test_pl_passport.py", "test_tl_passport.py"), "passport"),
}
"""Files that run in one process, because they share a slow result or slowly compiled code."""


def pytest_collection_modifyitems(items):
    """Keep the tests of a file in one process."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(SHARED.get(item.path.name, item.path.name)))


@pytest.fixture
def diffvae(monkeypatch, capsys):
    """Return a function that runs the command line in this process and returns exit code, stdout and stderr."""
    from diffvae.cli import main

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["diffvae", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            main()
        captured = capsys.readouterr()
        return exit_info.value.code, captured.out, captured.err

    before = signal.getsignal(signal.SIGTERM)
    yield call
    signal.signal(signal.SIGTERM, before)


def without_figures(patch):
    """Replace the functions of diffvae.pl by empty ones, because figures take most of the time of a run."""
    import diffvae as dv

    for name in dv.pl.__all__:
        patch.setattr(dv.pl, name, lambda *args, **options: None)


@pytest.fixture
def no_figures(monkeypatch):
    """Run a test without figures."""
    without_figures(monkeypatch)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """Return result, folder and steps of a run on 500 of the bundled cells with types, changes and links."""
    import diffvae as dv

    out, steps = tmp_path_factory.mktemp("demo") / "deep" / "demo", []
    few = dv.datasets.pancreas_endocrinogenesis()[::4].copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dv.pl, "save", functools.partial(dv.pl.save, dpi=60))
        patch.setattr(dv.datasets, "pancreas_endocrinogenesis", few.copy)
        result = dv.pipeline.run(
            out=out, n_latent=10, max_epochs=20, source="Ngn3 high EP", target=["Pre-endocrine", "Epsilon"], seed=0,
            progress=False, on_step=steps.append,
        )  # fmt: skip
    return result, out, steps


@pytest.fixture(scope="session")
def report_folder(demo):
    """Return the folder of the demo."""
    return demo[1]


@pytest.fixture(scope="session")
def fork_cells():
    """Return simulated cells of a fork; tests must not change them."""
    import diffvae as dv

    return dv.datasets.simulate_differentiation(240, 80, tree={"stem": ["red", "white"]}, n_drivers=16, rng=0)


@pytest.fixture(scope="session")
def fork_folder(fork_cells, tmp_path_factory):
    """Return the folder of a run on the fork with changes and without links."""
    import diffvae as dv

    out = tmp_path_factory.mktemp("fork") / "out"
    with pytest.MonkeyPatch.context() as patch:  # the tests of the demo check the figures
        patch.setattr(dv.pl, "save", lambda ax, path: ax.figure.savefig(path.with_suffix(".png"), dpi=40))
        dv.pipeline.run(
            fork_cells, out, label_key="cell_type", n_top_genes=None, n_latent=6, lr=5e-3, max_epochs=80,
            n_clusters=3, cluster_method="kmeans", source="stem", links=False, progress=False,
        )  # fmt: skip
    return out


@pytest.fixture(scope="session")
def integrated(tmp_path_factory):
    """Return the file of cells in three batches that lie apart, and the folder of a run that integrates them."""
    import diffvae as dv

    folder = tmp_path_factory.mktemp("integrated")
    cells = dv.datasets.simulate_differentiation(
        240, 80, tree={"stem": ["red", "white"]}, n_batches=3, batch_effect=1.0, missing={"batch_1": ["red"]}, rng=0
    )
    cells.obs["depth"] = cells.X.sum(axis=1)
    cells.write_h5ad(folder / "cells.h5ad")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dv.pl, "save", lambda ax, path: ax.figure.savefig(path.with_suffix(".png"), dpi=40))
        dv.pipeline.run(
            folder / "cells.h5ad", folder / "out", label_key="cell_type", batch_key="batch", covariates=["depth"],
            n_latent=6, max_epochs=20, n_clusters=3, cluster_method="kmeans", links=False, progress=False,
        )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def hostile_report(tmp_path_factory):
    """Return the folder of a run on cells whose names contain markup."""
    import _report_data

    import diffvae as dv

    with pytest.MonkeyPatch.context() as patch:  # figures are drawn, but their files are empty
        patch.setattr(dv.pl, "save", lambda ax, path: path.with_suffix(".png").touch())
        return _report_data.hostile(tmp_path_factory.mktemp("report") / "hostile")
