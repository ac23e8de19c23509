"""Output of commands: the result to standard output, as text or JSON; everything else to standard error."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import click

from compress_ssl.pipeline.common.torchrun import torchrun_env
from compress_ssl.storage.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON on standard output, and nothing else."
)


def echo(*lines: object, err: bool = False) -> None:
    """Print lines; a name in them can neither end a line nor act on the terminal."""
    click.echo("\n".join(map(printable, lines)), err=err)


class LineFormatter(logging.Formatter):
    """Formats a message of the log as one line, as ``echo`` does."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return printable(super().formatMessage(record))


def print_result(result: Any, as_json: bool, show: Callable[[], None]) -> None:
    """Print a command's result on rank 0: one JSON value, or the output of ``show``."""
    if torchrun_env().rank > 0:
        return
    if as_json:
        click.echo(json.dumps(result, indent=1, default=str))  # all ASCII
    else:
        show()


def say(line: str) -> None:
    """Print a message on standard error, unless --quiet was given."""
    if not is_quiet():
        echo(line, err=True)


def is_quiet() -> bool:
    """Return True if ``--quiet`` was given, or this is not rank 0."""
    if torchrun_env().rank > 0:
        return True
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.find_root().params.get("quiet"))
