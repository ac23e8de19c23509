"""``compress-ssl store``: inspect, check and move stores. Each command is a file in ``cli/stores``."""

import click

from compress_ssl.cli.groups import LazyGroup


class StoreCommands(LazyGroup):
    """Commands, in the order of the help."""

    package = "compress_ssl.cli.stores"
    modules = ("info", "list_", "card", "verify", "copy", "merge", "export", "import_")


@click.group("store", cls=StoreCommands)
def command() -> None:
    """Inspect, check, copy and merge embedding stores."""
