"""``compress-ssl store``: looking at embedding stores, and moving them. Each command has a file in ``cli/stores``."""

from __future__ import annotations

import click

from compress_ssl.cli.groups import LazyGroup


class StoreCommands(LazyGroup):
    """The commands, in the order of their help."""

    package = "compress_ssl.cli.stores"
    modules = ("info", "list_", "card", "verify", "copy", "merge", "export", "import_")


@click.group("store", cls=StoreCommands)
def command() -> None:
    """Look at an embedding store, check it, move it."""
