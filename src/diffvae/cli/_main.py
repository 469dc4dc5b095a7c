"""The program ``diffvae``: its commands, and what becomes of an error."""

from __future__ import annotations

import atexit
import gc
import os
import shlex
import signal
import sys
import traceback
from typing import Annotated

import typer

from diffvae import __version__, _errors
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
        bool, typer.Option("--version", help="Print the version and leave.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Cell types, changed states and links between cells from single-cell RNA-seq.

    Every result stands beside a null or a baseline.
    """
    _console.settings.debug = debug
    if _launched_with() > 1 and context.invoked_subcommand != _train.NAME:
        name = context.invoked_subcommand
        raise ValueError(f"Only 'train' is shared by the processes of torchrun; run 'diffvae {name}' without it.")


def _launched_with() -> int:
    """Return how many processes torchrun started, this one included."""
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
for module in COMMANDS:
    app.command(name=module.NAME, epilog=module.EXAMPLE)(module.command)


STOPPED = {130: "Interrupted", 143: "Stopped"}
"""128 + SIGINT and 128 + SIGTERM, as shells count."""


def main() -> None:
    """Run the program: exit code 0, 2 for bad usage or input, 1 for a failure, 130 or 143 when told to stop."""
    # a scheduler's kind request to stop ends as a failure does: what was half written is removed
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    # torch's threads wait for each other by spinning; beside another busy program each wait lasts as long as that
    # one's turn, and a training step six times as long. Read when torch is imported, which nothing has done yet.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    _console.settings.reset()
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="diffvae", standalone_mode=False)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except SystemExit as left:
        code = left.code
    except Exception as error:
        code = _tell(error)
    if code in STOPPED and not _console.rank():  # the first of several processes says it
        _console.error(_stopped(STOPPED[code]))
    if not _errors.hdf5_is_sound:
        # HDF5 that could not write (a full disk) crashes when it ends with the process: leave without its goodbye
        gc.collect()  # what is removed with its owner is removed
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    for number in (signal.SIGINT, signal.SIGTERM):  # all is done and told: a signal on the way out has no traceback
        atexit.register(signal.signal, number, signal.SIG_DFL)
    sys.exit(code or 0)


def _stopped(how: str) -> str:
    """Say what is left of a command that was told to stop, and how to go on."""
    settings = _console.settings
    if settings.is_written:
        page = f"; 'diffvae report {shlex.quote(str(settings.page))}' makes the page" if settings.lacks_page else ""
        return f"{how}; {settings.out} was written{page}."
    if settings.out is not None and settings.resumes:
        from diffvae._core.io.folders import CheckpointPaths

        if files := CheckpointPaths(settings.out, None, True, False, is_writer=False).files:
            return f"{how}; the training is kept in {files[-1].name!r}. {_going_on(sys.argv[1:])}"
    return settings.interrupted.replace("Interrupted", how, 1)


def _going_on(arguments: list[str]) -> str:
    """Say which command goes on."""
    if _launched_with() > 1:  # its own options aren't known here
        return "To go on, start the same torchrun command again with --resume."
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "--resume" not in options:  # right after the command, for behind "--" it would be the name of a file
        command = next(i for i, word in enumerate(arguments) if not word.startswith("-"))
        arguments = [*arguments[: command + 1], "--resume", *arguments[command + 1 :]]
    return f"Go on with: diffvae {shlex.join(arguments)}"


def _tell(error: Exception) -> int:
    """Say what went wrong, in one line, and return the exit code."""
    if _console.settings.debug:
        traceback.print_exception(error)
    if (usage := getattr(error, "format_message", None)) is not None:  # typer's own: an unknown option, say
        _console.error(_console.full_stop(usage()) + " See 'diffvae --help' and 'diffvae COMMAND --help'.")
        return 2
    _console.error(_console.sentence(error))
    return 2 if isinstance(error, ValueError | FileNotFoundError) else 1
