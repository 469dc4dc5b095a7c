"""The program ``diffvae``: its commands, its errors and how it ends."""

from __future__ import annotations

import atexit
import gc
import inspect
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from diffvae import __version__, _errors
from diffvae._core import words
from diffvae.cli import (
    _benchmark,
    _console,
    _datasets,
    _embed,
    _generate,
    _identify,
    _links,
    _perturb,
    _report,
    _reproduce,
    _run,
    _train,
    _tune,
)

app = typer.Typer(
    name="diffvae",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example:  diffvae run mydata.h5ad --out results   (without a file: on bundled real data)",
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"diffvae {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Cell types, perturbations and links between cells from single-cell RNA-seq.

    Every result is compared with a null or a baseline.
    """
    _console.settings.debug, name = debug, str(context.invoked_subcommand)
    if _n_processes() > 1 and name != _train.NAME:
        raise ValueError(f"Only 'diffvae train' works under torchrun; run 'diffvae {name}' without it.")
    _console.settings.interface = interface(context.command.commands, name)  # type: ignore[attr-defined]
    words.use(_console.settings.interface)
    context.call_on_close(lambda: words.use(None))


def interface(commands: Mapping[str, Any], name: str) -> words.Interface:
    """Return the words of a command."""
    options = {command: _words_of(commands[command].params) for command in commands}
    return words.Interface(name, options, _settings_in_a_file)


def _words_of(parameters: Sequence[Any]) -> dict[str, words.Option]:
    """Return the options of a command by the names of the arguments."""
    options = {}
    for p in parameters:
        if p.opts[0].startswith("--"):
            off = p.secondary_opts[0] if p.secondary_opts else ""
            options[p.name] = words.Option(p.opts[0], off, bool(getattr(p, "is_flag", False)))
    return options


def _settings_in_a_file() -> frozenset[str]:
    """Return what the file of ``--config`` can set."""
    from diffvae.pipeline._settings import names  # too slow to import for --help

    return names()


def _n_processes() -> int:
    """Return the number of processes that torchrun started, including this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


COMMANDS = (
    _run,
    _train,
    _embed,
    _identify,
    _perturb,
    _links,
    _report,
    _generate,
    _datasets,
    _benchmark,
    _tune,
    _reproduce,
)


def _paragraphs(text: str) -> str:
    """Return a docstring with one line per paragraph, which the terminal then wraps."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))


for module in COMMANDS:
    app.command(
        name=module.NAME,
        help=_paragraphs(module.command.__doc__),
        epilog="\n\n".join(["Examples:", *module.EXAMPLES]),
    )(module.command)


STOPPED = {130: "Interrupted", 143: "Stopped"}
"""Exit codes of 128 + SIGINT and 128 + SIGTERM."""


def main() -> None:
    """Run the program: exit code 0, 2 for bad usage or input, 1 for a failure, 130 or 143 for SIGINT or SIGTERM."""
    # SIGTERM ends the program as an error does, so that partial output is removed
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    # The threads of torch wait for each other by spinning, which makes a training step six times slower on a busy
    # machine. The variable is read when torch is imported, which has not happened yet.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    _console.settings.reset()
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="diffvae", standalone_mode=False)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except SystemExit as left:
        code = left.code
    except Exception as error:
        code = _print_error(error)
    if code in STOPPED and not _console.rank():  # the first of several processes reports it
        _console.error(_stopped(STOPPED[code]))
    if not _errors.hdf5_is_sound:
        # after a failed write (a full disk), the clean-up of HDF5 at the end of the process crashes: skip it
        gc.collect()  # finalizers remove temporary folders
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    for number in (signal.SIGINT, signal.SIGTERM):  # no traceback for a signal from here on
        atexit.register(signal.signal, number, signal.SIG_DFL)
    atexit.register(gc.freeze)  # else Python looks for cycles among all that was imported, which takes a second
    sys.exit(code or 0)


def _stopped(how: str) -> str:
    """Say what a stopped command has written, and how to continue it."""
    settings = _console.settings
    if settings.is_written:
        page = f"; 'diffvae report {shlex.quote(str(settings.page))}' writes its page" if settings.lacks_page else ""
        return f"{how}; {settings.out} was written{page}."
    if settings.out is not None and settings.resumes:
        from diffvae._core.io.folders import CheckpointPaths

        if files := CheckpointPaths(settings.out, None, True, False, is_writer=False).files:
            return f"{how}; the training is saved in {files[-1].name!r}. {_continue_with(sys.argv[1:])}"
    return settings.interrupted.replace("Interrupted", how, 1)


def _continue_with(arguments: list[str]) -> str:
    """Say which command continues the training."""
    if _n_processes() > 1:  # the options of torchrun are not known here
        return "To continue, run the same torchrun command with --resume."
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "--resume" not in options:  # after the command; after "--" it would be a file name
        command = next(i for i, word in enumerate(arguments) if not word.startswith("-"))
        arguments = [*arguments[: command + 1], "--resume", *arguments[command + 1 :]]
    return f"Continue with: diffvae {shlex.join(arguments)}"


def _print_error(error: Exception) -> int:
    """Print an error as one line and return the exit code."""
    if _console.settings.debug:
        traceback.print_exception(error)
    if (usage := getattr(error, "format_message", None)) is not None:  # of typer: an unknown option, for example
        _console.error(_console.full_stop(usage()) + " See 'diffvae --help' and 'diffvae COMMAND --help'.")
        return 2
    _console.error(_console.sentence(error))
    return 2 if isinstance(error, ValueError | FileNotFoundError) else 1
