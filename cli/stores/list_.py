"""``compress-ssl store list``."""

from dataclasses import asdict
from typing import Any

import click

from compress_ssl.cli.groups import example
from compress_ssl.cli.output import echo, json_option, print_result
from compress_ssl.cli.stores.info import writer_sentence


@click.command("list", epilog=example("compress-ssl store list /shared/stores", "compress-ssl store list s3://lab"))
@click.argument("root", type=click.Path(), default=".")
@json_option
def command(root: str, as_json: bool) -> None:
    """List every store below a folder or in a bucket.

    One store per line; damaged ones are marked. ROOT defaults to the current folder.
    """
    from compress_ssl.storage import location
    from compress_ssl.storage.tools.catalogue import catalogue

    entries = list(catalogue(location(root)))
    width = max((len(entry.path) for entry in entries), default=0)

    def show() -> None:
        for entry in entries:
            line = f"damaged: {entry.error}" if entry.error else _describe(entry.found)
            echo(f"{entry.path:<{width}}  {line}")
        if not entries:
            echo(f"There is no embedding store below '{root}'.")

    print_result([asdict(entry) for entry in entries], as_json, show)


def _describe(found: dict[str, Any]) -> str:
    done = "complete" if found["complete"] else f"{found['blocks_committed']} of {found['blocks']} blocks done"
    writer = f", being written by {writer_sentence(found['writer'])}" if found["writer"] else ""
    patches = found["patches"]
    shape = f" and {patches['grid']} x {patches['grid']} patches of {patches['components']}" if patches else ""
    return (
        f"{found['teacher'] or 'unknown'}: {found['data_set'] or 'unknown'} ({', '.join(found['splits'])}), "
        f"{found['samples']:,} images, {found['views']} views of {found['feature_dim']} features{shape}, "
        f"{found['stored_bytes'] / 2**20:,.1f} MiB, {done}{writer}"
    )
