"""The public interface matches `public_names.txt`: every name with its parameters and their defaults.

After a deliberate change, renew the list with ``python tests/test_public_names.py``.
"""

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import diffvae
from diffvae.cli._main import app

FILE = Path(__file__).with_name("public_names.txt")


def default_text(value: Any) -> str:
    """Return a default in a form that is the same on all machines and versions of Python."""
    return getattr(value, "__qualname__", None) or repr(value)


def signature_text(thing: Any) -> str:
    """Return names, kinds and defaults of the parameters, without types."""
    shown, previous = [], inspect.Parameter.POSITIONAL_ONLY
    for name, parameter in inspect.signature(thing).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and previous < parameter.VAR_POSITIONAL:
            shown.append("*")
        prefix = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = "" if parameter.default is parameter.empty else f"={default_text(parameter.default)}"
        shown.append(f"{prefix}{name}{default}")
        previous = parameter.kind
    return f"({', '.join(shown)})"


def has_own_signature(thing: Any) -> bool:
    """Exclude exceptions and protocols, whose signatures differ between versions of Python."""
    cls = thing if isinstance(thing, type) else object
    return callable(thing) and not issubclass(cls, Exception) and not getattr(cls, "_is_protocol", False)


def members(cls: type) -> Iterator[str]:
    """Yield the public methods and attributes that this package defines for a class."""
    for name in dir(cls):
        home = next((c for c in cls.__mro__ if name in vars(c)), object)
        if name.startswith("_") or not home.__module__.startswith("diffvae"):
            continue
        value = getattr(cls, name)
        yield name + (signature_text(value) if callable(value) else "")


def public_names() -> list[str]:
    """Return a line for each public name, each public member of a class, and each option of the command line."""
    lines = []
    for space in sorted(diffvae.__all__):
        module = importlib.import_module(f"diffvae.{space}")
        for name in sorted(module.__all__):
            thing, full = getattr(module, name), f"{space}.{name}"
            lines.append(full + (signature_text(thing) if has_own_signature(thing) else ""))
            if isinstance(thing, type):
                lines += [f"{full}.{member}" for member in members(thing)]
    group = typer.main.get_command(app)
    for name, command in sorted(group.commands.items()):
        lines += [f"diffvae {name} {'/'.join([*p.opts, *p.secondary_opts])}" for p in command.params]
    return lines


def test_public_names_match_the_list():
    expected, found = FILE.read_text(encoding="utf-8").splitlines(), public_names()
    gone, new = ([line for line in a if line not in b] for a, b in ((expected, found), (found, expected)))
    assert found == expected, (
        f"The public interface has changed.\nNo longer: {gone}\nNew: {new}\n"
        "If you meant this, add an entry to CHANGELOG.md and regenerate: python tests/test_public_names.py"
    )


if __name__ == "__main__":
    FILE.write_text("".join(f"{line}\n" for line in public_names()), encoding="utf-8")
