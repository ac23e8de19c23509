"""Where a command's words go: its result to standard output, for people or as JSON; all else to standard error."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from compress_ssl.pipeline.common.torchrun import torchrun_env

if TYPE_CHECKING:
    from collections.abc import Callable

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON, and nothing else on standard output."
)


def print_result(result: Any, as_json: bool, show: Callable[[], None]) -> None:
    """Print a command's result: one JSON value where that was asked for, else what ``show`` prints; once for all processes."""
    if torchrun_env().rank > 0:
        return
    if as_json:
        click.echo(json.dumps(result, indent=1, default=str))
    else:
        show()


def say(line: str) -> None:
    """Say on standard error what is going on, unless the user wants quiet."""
    if not is_quiet():
        click.echo(line, err=True)


def is_quiet() -> bool:
    """Whether ``compress-ssl --quiet`` was called, or another process speaks for this one."""
    if torchrun_env().rank > 0:
        return True
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.find_root().params.get("quiet"))
