"""What the commands print stays within the width of a line, and names stay whole."""

import re
from dataclasses import replace

import pytest

from diffvae import pipeline
from diffvae.cli import _console, _links, _run

LONG = "Enteroendocrine_progenitor_cells_of_the_pancreas"
RULE = "─"


@pytest.fixture
def terminal(monkeypatch):
    """Return a function that makes the output that of a terminal with so many columns, or of a pipe."""

    def resize(columns):
        for name in ("FORCE_COLOR", "COLUMNS"):
            monkeypatch.delenv(name, raising=False)
        if columns is not None:
            monkeypatch.setenv("FORCE_COLOR", "1")
            monkeypatch.setenv("COLUMNS", str(columns))

    return resize


@pytest.fixture
def said(demo, diffvae, terminal, monkeypatch):
    """Return a function that calls a command, which finds the result of the demo, and returns stdout and stderr."""
    result, out, steps = demo
    monkeypatch.chdir(out.parent)
    at = out.relative_to(out.parent)
    warned = {"warnings": ["This warning is longer than a line of the terminal can be. " * 3]}
    answers = {"run": replace(result, path=at, summary=result.summary | warned)}
    for name, part in (("perturb", result.changes), ("links", result.links)):
        answers[name] = replace(part, path=at / name, summary=part.summary | warned)

    def call(command, columns):
        terminal(columns)

        def answer(*_, on_step, **__):
            for step in steps:
                on_step(step)
            return answers[command]

        monkeypatch.setattr(pipeline, command, answer)
        arguments = [] if command == "run" else [at]
        code, *texts = diffvae(command, *arguments, "--out", "other", *(["--source", "x"] * (command == "perturb")))
        assert code == 0, texts
        return [plain(text) for text in texts]

    return call


def plain(text):
    """Return text without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def words(text):
    return [word for word in text.split() if set(word) - {RULE}]


@pytest.mark.parametrize("columns", [None, 100])
@pytest.mark.parametrize("command", ["run", "perturb", "links"])
def test_lines_have_at_most_100_characters(said, command, columns):
    for text in said(command, columns):
        lines = text.splitlines()
        assert lines
        assert [line for line in lines if len(line.rstrip()) > 100] == []


@pytest.mark.parametrize("command", ["run", "perturb", "links"])
@pytest.mark.parametrize("columns", [80, 100, 300])
def test_words_are_whole_on_any_terminal(said, command, columns):
    for text, piped in zip(said(command, columns), said(command, None), strict=True):
        assert sorted(words(text)) == sorted(words(piped))
        assert max(map(len, map(str.rstrip, text.splitlines()))) <= min(columns, 100)


def test_folded_remarks_hang(capsys, terminal):
    terminal(None)
    _console.note("word " * 30)
    _console.warn("a " + "x" * 120 + " b")
    _console.step("step " * 25)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["• " + " ".join(["word"] * 19), "  " + " ".join(["word"] * 11)]
    assert lines[2:5] == ["! a", "  " + "x" * 120, "  b"]  # a word is not broken
    assert lines[5:] == ["· " + " ".join(["step"] * 19), "  " + " ".join(["step"] * 6)]


def test_a_command_stays_in_one_line_to_be_copied(capsys, terminal):
    command = "diffvae report " + "folder/" * 14
    terminal(80)
    _console.error(f"{'word ' * 20}. Continue with: {command}")
    lines = plain(capsys.readouterr().err).splitlines()
    assert lines[-2].endswith("Continue with:")
    assert lines[-1] == "  " + command


def test_errors_and_results_are_folded_on_a_terminal_only(capsys, terminal):
    for columns, n_lines in ((None, 1), (80, 2)):
        terminal(columns)
        _console.error("word " * 25)
        _console.say("word " * 25)
        for text in capsys.readouterr():
            assert len(text.splitlines()) == n_lines


def test_lists_are_folded_in_a_pipe_and_names_are_not(capsys, terminal):
    terminal(None)
    genes = [f"GENE{i}" for i in range(30)]
    _console.table("title", ["name", "genes"], [["a long name " * 3, genes], ["b", []]])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, map(str.rstrip, lines))) <= 100
    assert lines[4].startswith(" " + ("a long name " * 3).strip())
    assert words(" ".join(lines[4:])) == [*("a long name " * 3).split(), *genes, "b"]
    assert len(lines) > 7


def test_words_that_no_column_can_hold_are_shortened_visibly(capsys, terminal):
    terminal(80)
    _console.table("title", ["one", "two", "n"], [[LONG, LONG[::-1], "1"]])
    lines = plain(capsys.readouterr().out).splitlines()
    assert max(map(len, map(str.rstrip, lines))) <= 80
    one, two, n = lines[4].split()
    assert (one[-1], two[-1], n) == ("…", "…", "1")
    assert LONG.startswith(one[:-1])
    assert LONG[::-1].startswith(two[:-1])
    assert len(one) + len(two) > 65  # as much as there is room for
    terminal(None)
    _console.table("title", ["one", "two", "three"], [[LONG] * 3])
    assert capsys.readouterr().out.splitlines()[4].split() == [LONG] * 3  # a pipe loses nothing


@pytest.mark.parametrize("columns", [None, 80, 100])
def test_long_names_of_types(demo, capsys, terminal, columns):
    terminal(columns)
    result = demo[0]
    links = result.links
    named = result.clusters.assign(cell_type=LONG, confident=False)
    types = links.types.assign(type_1=LONG, type_2=LONG[::-1], q_value=0.01, z=5.0).reset_index(drop=True)
    types.loc[::2, "type_2"] = LONG[::-1]
    fates = links.fates.assign(type=[f"{name}_{LONG}" for name in links.fates["type"]])
    _run.show(replace(result, clusters=named, changes=None, links=None, path=None))
    _links.show(replace(links, types=types, fates=fates))
    text = plain("".join(capsys.readouterr()))
    assert [line for line in text.splitlines() if len(line.rstrip()) > (columns or 100)] == []
    assert _console.short(LONG)[:10] in text
