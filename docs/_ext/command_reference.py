"""The directive ``.. command-reference::``: all commands of the program with their options and examples.

The page is generated from the program, so that new commands and options appear with the next build. (sphinx-click does
not support typer, which has its own copy of click.)
"""

from __future__ import annotations

from typing import Any

import typer
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from diffvae.cli._main import app as program


class CommandReference(SphinxDirective):
    """One section per command of the program."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        group: Any = typer.main.get_command(program)
        top = context_of(group, program.info.name)
        sections: list[nodes.Node] = [
            *(paragraph(text) for text in group.help.split("\n\n")),
            *usage(group, top),
            table(group, top),
        ]
        for name, command in group.commands.items():
            section = nodes.section(ids=[f"diffvae-{name}"], names=[f"diffvae {name}"])
            section += nodes.title(text=f"diffvae {name}")
            context = context_of(command, f"{program.info.name} {name}")
            section += [paragraph(text) for text in command.help.split("\n\n")]
            section += usage(command, context)
            section += table(command, context)
            commands, remarks = examples(command.epilog)
            section += nodes.rubric(text="Examples")
            section += code("\n".join(commands))
            section += [paragraph(remark[0].upper() + remark[1:] + ".") for remark in remarks]
            self.state.document.note_implicit_target(section)
            sections.append(section)
        return sections


def context_of(command: Any, path: str) -> Any:
    """Return the context in which a command formats its help."""
    return command.context_class(command, info_name=path)


def usage(command: Any, context: Any) -> list[nodes.Node]:
    """Return the usage line."""
    return [code(command.get_usage(context).removeprefix("Usage: "))]


def examples(epilog: str) -> tuple[list[str], list[str]]:
    r"""Return the commands of an epilog, and its other remarks.

    Examples
    --------
    >>> examples("Examples:\n\ndiffvae datasets\n\nwith the same folder it goes on")
    (['diffvae datasets'], ['with the same folder it goes on'])
    """
    parts = epilog.split("\n\n")[1:]
    return [p for p in parts if p.startswith("diffvae ")], [p for p in parts if not p.startswith("diffvae ")]


def table(command: Any, context: Any) -> nodes.Node:
    """Return arguments and options with their help text, including defaults and ranges."""
    records = [p.get_help_record(context) for p in command.get_params(context)]
    listed = nodes.table(classes=["options"])
    group = nodes.tgroup(cols=2)
    group += [nodes.colspec(colwidth=35), nodes.colspec(colwidth=65)]
    body = nodes.tbody()
    for name, text in filter(None, records):
        row = nodes.row()
        row += nodes.entry("", nodes.paragraph("", "", nodes.literal(text=name)))
        row += nodes.entry("", paragraph(text))
        body += row
    group += body
    listed += group
    return listed


def paragraph(text: str) -> nodes.paragraph:
    """Return a paragraph on one line."""
    return nodes.paragraph(text=" ".join(text.split()))


def code(text: str) -> nodes.literal_block:
    """Return a block of shell commands."""
    return nodes.literal_block(text, text, language="bash")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive with Sphinx."""
    app.add_directive("command-reference", CommandReference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
