"""Messages in the words of the interface in use: arguments in Python, options on the command line.

Messages are written in the words of Python. The command line says with :func:`use` which options it has, and
:func:`said` then replaces arguments by options. Where the two need different advice, :func:`either` has both.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Option:
    """An option of a command; ``off`` is what switches a flag off, "" if nothing does."""

    name: str
    off: str = ""
    is_flag: bool = False

    def given(self, value: str) -> str:
        """Return the option with a value as Python writes it; "" or "..." stand for any."""
        if self.is_flag or value in ("True", "False"):
            return self.name if value != "False" else self.off or f"without {self.name}"
        if value in ("", "..."):
            return self.name
        literal = re.fullmatch(r"(['\"])(.*)\1", value)
        return f"{self.name} {shlex.quote(literal[2] if literal else value)}"


Options = Mapping[str, Option]
"""Options by the names of the arguments."""
ALIASES = {"kind": "values"}
"""Arguments of functions that a run knows by another name."""
OPTION_OF = ALIASES | {"covariates": "covariate"}
"""The same for options."""
CALLS = (
    (r"(?:call|run) adata\.obs_names_make_unique\(\)(?: first)?", "rename them in the file"),
    (r"(?:call|run) adata\.var_names_make_unique\(\)(?: first)?", "rename them in the file"),
    (r"; diffvae\.pp\.check\(adata\) says where", "; replace them in the file"),
    (r"(?:run|call) diffvae\.[\w.]+(?:\([^()]*(?:\([^()]*\)[^()]*)*\))?(?: on raw counts)?(?: first| again)?",
     "run 'diffvae run' on the original data"),
)  # fmt: skip
"""What a program can't call, and what its users can do instead."""
DATA = (
    (r"\badata\.(?=(?:obs|var|obsm|varm|obsp|layers|uns)\[)", ""),
    (r"\badata\.(?=raw\b|X\b)", ""),
    (r"\badata\.(?=obs\b|var\b)(?!\w*_)", ""),
    (r"\badata\.obs_names\b", "the names of cells"),
    (r"\badata\.var_names\b", "the names of genes"),
    (r"^adata\b", "The input"),
    (r"(?<=[.:] )adata\b(?=[^.:]* (?:has|is)\b)", "the input"),
    (r"\badata\b(?![\w.\[('=])", "the input"),
)
_VALUE = r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|-?\d[\w.+-]*\w|\d|True|False|None|\.\.\.|"
_GIVEN = re.compile(rf"(?<![\w'\"\[.-])([a-z][a-z_]*)=({_VALUE})(?=[\s,.;:)]|$)")
_BARE = re.compile(r"(?<![\w'\"\[./-])([a-z]+(?:_[a-z]+)+)(?![\w'\"(/=-]|\.\w|\])")
_NAMED = re.compile(
    r"(?<![\w'\"-])([a-z]+)(?= is )|(?<=\()([a-z]+)(?=\))|(?<=\bincrease )([a-z]+)\b|(?<=\bwithout )([a-z]+)\b"
)


@dataclass(frozen=True)
class Interface:
    """The command line, in one of its commands.

    Attributes
    ----------
    command
        The command that runs.
    commands
        The options of each command, those first that advice should name first.
    in_file
        Returns the settings that the file of ``--config`` takes.
    """

    command: str
    commands: Mapping[str, Options]
    in_file: Callable[[], frozenset[str]] = field(default=frozenset)

    def option(self, name: str, value: str = "") -> str | None:
        """Return what stands for an argument on the command line; None if nothing does."""
        own = self.commands.get(self.command, {})
        for spelling in (name, OPTION_OF.get(name, name)):
            if spelling in own:
                return own[spelling].given(value)
        in_file = "config" in next(iter(self.commands.values()), {}) and name in self.in_file()
        if in_file and "config" in own:
            return self._in_file(name, value)
        for command, options in self.commands.items():
            for spelling in (name, OPTION_OF.get(name, name)):
                if spelling in options:
                    return f"{options[spelling].given(value)} of 'diffvae {command}'"
        return f"{self._in_file(name, value)} of 'diffvae run'" if in_file else None

    def _in_file(self, name: str, value: str) -> str:
        json = value.lower() if value in ("True", "False") else value.replace("'", '"')
        shown = "" if value in ("", "...") else f": {json}"
        return f'"{name}"{shown} in the file of --config'

    def say(self, text: str) -> str:
        """Return a message with options for arguments."""
        for pattern, words in CALLS:
            text = re.sub(pattern, words, text)

        def given(match: re.Match[str]) -> str:
            return self.option(match[1], match[2]) or match[0]

        def bare(match: re.Match[str]) -> str:
            return self.option(match[1]) or match[0]

        def named(match: re.Match[str]) -> str:
            own = self.commands.get(self.command, {})
            name = next(filter(None, match.groups()))
            option = own.get(name) or own.get(OPTION_OF.get(name, name))
            return option.name if option else match[0]

        for form, replace in ((_GIVEN, given), (_BARE, bare), (_NAMED, named)):
            text = _outside_quotes(form, replace, text)
        for pattern, words in DATA:
            text = re.sub(pattern, words, text)
        return text


def _outside_quotes(pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str], text: str) -> str:
    """Replace matches that do not begin inside a quoted command such as 'diffvae run --out x'."""
    quoted = [match.span() for match in re.finditer(r"'diffvae [^']*'", text)]

    def outside(match: re.Match[str]) -> str:
        return match[0] if any(a <= match.start() < b for a, b in quoted) else replace(match)

    return pattern.sub(outside, text)


_interface: Interface | None = None


def use(interface: Interface | None) -> None:
    """Say which interface is in use; None is Python."""
    global _interface
    _interface = interface


@contextmanager
def used(interface: Interface | None) -> Iterator[None]:
    """Use an interface for a while."""
    before = _interface
    use(interface)
    try:
        yield
    finally:
        use(before)


def said(text: str) -> str:
    """Return a message in the words of the interface in use.

    Examples
    --------
    >>> options = {"n_clusters": Option("--n-clusters"), "links": Option("--links", "--no-links", is_flag=True)}
    >>> with used(Interface("run", {"run": options})):
    ...     said("n_clusters is 1; pass n_clusters='auto', or links=False.")
    '--n-clusters is 1; pass --n-clusters auto, or --no-links.'
    >>> said("n_clusters is 1.")
    'n_clusters is 1.'
    """
    return _interface.say(text) if _interface is not None else text


_in_run = False


@contextmanager
def of_run() -> Iterator[None]:
    """Speak of the arguments of :func:`diffvae.pipeline.run` for a while, which reads files and takes ``values``."""
    global _in_run
    before, _in_run = _in_run, True
    try:
        yield
    finally:
        _in_run = before


def argument(name: str) -> str:
    """Return the name of an argument in the function that the user called.

    Examples
    --------
    >>> argument("kind")
    'kind'
    >>> with of_run():
    ...     argument("kind")
    'values'
    """
    return ALIASES.get(name, name) if _in_run else name


def either(python: str, run: str) -> str:
    """Return the advice for functions that take an AnnData, or that for a run or a command, which reads files."""
    return run if _in_run or _interface is not None else python
