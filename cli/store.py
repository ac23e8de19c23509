"""``compress-ssl store``: looking at embedding stores."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cli.groups import NearestGroup
from cli.output import json_option, print_result

store_argument = click.argument("store", type=click.Path(path_type=Path))


@click.group("store", cls=NearestGroup)
def command() -> None:
    """Look at an embedding store, and check it."""


@command.command("info")
@store_argument
@json_option
def info(store: Path, as_json: bool) -> None:
    """Say what a store holds and how complete it is."""
    from storage import describe, open_store

    description = describe(open_store(store))
    print_result(description, as_json, lambda: _show_description(store, description))


def _show_description(store: Path, description: dict[str, Any]) -> None:
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


@command.command("verify")
@store_argument
@json_option
def verify(store: Path, as_json: bool) -> None:
    """Compare every committed byte of a store with its checksum."""
    from storage import open_store
    from storage.verify import verify_store

    result = verify_store(open_store(store))
    wrong = (*result.damaged, *result.missing)
    last = f"{result.parts:,} parts, {result.bytes / 2**20:,.1f} MiB: " + ("all well" if result.ok else "not well")
    print_result({"ok": result.ok, **asdict(result)}, as_json, lambda: click.echo("\n".join((*wrong, last))))
    if not result.ok:
        raise click.exceptions.Exit(1)
