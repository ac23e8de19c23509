"""``compress-ssl store verify``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from cli.options import make_settings, settings_options
from cli.output import json_option, print_result
from cli.stores.argument import store_argument
from pipeline.cluster.settings import ClusterSettings


@click.command("verify")
@store_argument
@settings_options(ClusterSettings)
@json_option
def command(store: str, as_json: bool, **given: Any) -> None:
    """Compare every committed byte of a store with its checksum."""
    settings = make_settings(ClusterSettings, given)
    from storage import location, open_store
    from storage.verify import verify_store

    if settings.is_shared:
        from cli.progress import TerminalProgress
        from pipeline.cluster.verify import verify_on_cluster

        result = verify_on_cluster(location(store), settings, TerminalProgress())
    else:
        result = verify_store(open_store(store))
    wrong = (*result.damaged, *result.missing)
    last = f"{result.parts:,} parts, {result.bytes / 2**20:,.1f} MiB: " + ("all well" if result.ok else "not well")
    print_result({"ok": result.ok, **asdict(result)}, as_json, lambda: click.echo("\n".join((*wrong, last))))
    if not result.ok:
        raise click.exceptions.Exit(1)
