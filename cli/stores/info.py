"""``compress-ssl store info``."""

from __future__ import annotations

from typing import Any

import click

from cli.output import json_option, print_result
from cli.stores.argument import store_argument


@click.command("info")
@store_argument
@json_option
def command(store: str, as_json: bool) -> None:
    """Say what a store holds and how complete it is."""
    from storage import describe, open_store

    description = describe(open_store(store))
    print_result(description, as_json, lambda: _show_description(store, description))


def _show_description(store: str, description: dict[str, Any]) -> None:
    teacher, data, rendering = (description[key] for key in ("teacher", "data_set", "rendering"))
    click.echo(f"{store}: format version {description['version']}")
    click.echo(
        f"teacher   {teacher['name']} ({teacher['architecture']}), {teacher['feature_dim']} features, "
        f"{teacher['precision']}, weights {teacher['weights_sha256'][:12]}"
    )
    click.echo(f"data set  {data['name']}, {data['images']:,} images")
    click.echo(f"rendered  by {rendering['renderer']} on {rendering['device_kind']}")
    for name, split in description["splits"].items():
        click.echo(_split_line(name, split))


def _split_line(name: str, split: dict[str, Any]) -> str:
    committed, blocks = sum(split["blocks_committed"]), split["blocks"] * len(split["views"])
    policies = list(dict.fromkeys(f"{view['policy']['name']} {view['size']} px" for view in split["views"]))
    return (
        f"{name:<9} {split['samples']:,} images ({split['bad_images']} bad), {split['classes']} classes, "
        f"{len(split['views'])} views ({', '.join(policies)}), {split['bytes'] / 2**20:,.1f} MiB, "
        + ("complete" if committed == blocks else f"{committed} of {blocks} blocks done")
    )
