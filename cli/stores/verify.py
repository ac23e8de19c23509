"""``compress-ssl store verify``."""

from __future__ import annotations

from dataclasses import asdict

import click

from cli.output import json_option, print_result
from cli.stores.argument import store_argument


@click.command("verify")
@store_argument
@json_option
def command(store: str, as_json: bool) -> None:
    """Compare every committed byte of a store with its checksum."""
    from storage import open_store
    from storage.verify import verify_store

    result = verify_store(open_store(store))
    wrong = (*result.damaged, *result.missing)
    last = f"{result.parts:,} parts, {result.bytes / 2**20:,.1f} MiB: " + ("all well" if result.ok else "not well")
    print_result({"ok": result.ok, **asdict(result)}, as_json, lambda: click.echo("\n".join((*wrong, last))))
    if not result.ok:
        raise click.exceptions.Exit(1)
