import os
import signal
import sys

import pytest

# Threads that wait by spinning take the cores from those that work where several test runs share a machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


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
