import signal
import sys

import pytest

SHARED = {"test_report.py": "report", "test_report_browser.py": "report", "test_pp_cell_graph.py": "test_neighbours.py"}
"""Files that go with others, for what both need is made, or compiled, once."""


def pytest_collection_modifyitems(items):
    """Keep the tests of a file in one process."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(SHARED.get(item.path.name, item.path.name)))


@pytest.fixture
def diffvae(monkeypatch, capsys):
    """Run the program in this process: exit code, stdout, stderr; what it sets is put back."""
    from diffvae.cli import main

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["diffvae", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return left.value.code, captured.out, captured.err

    before = signal.getsignal(signal.SIGTERM)
    yield call
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def report_folder(tmp_path_factory):
    """The folder of a run with types, changes and links, and its page."""
    import _report_data

    return _report_data.demo(tmp_path_factory.mktemp("report") / "demo")


@pytest.fixture(scope="session")
def hostile_report(tmp_path_factory):
    """The same of cells whose names would be markup, if a page let them."""
    import _report_data

    return _report_data.hostile(tmp_path_factory.mktemp("report") / "hostile")
