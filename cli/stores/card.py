"""``compress-ssl store card``."""

from pathlib import Path

import click

from compress_ssl.cli.groups import example
from compress_ssl.cli.options import LOCAL_PATH
from compress_ssl.cli.output import echo, json_option, print_result


@click.command("card", epilog=example("compress-ssl store card teacher.zarr --output README.md"))
@click.argument("store", type=click.Path())
@click.option(
    "--output", type=LOCAL_PATH, help="File to write (default: standard output). An existing file is never replaced."
)
@json_option
def command(store: str, output: Path | None, as_json: bool) -> None:
    """Print or write the dataset card of a store.

    It is a README.md with the YAML header of a Hugging Face dataset card. Put it beside the store, into the top folder
    of the repository: zarr warns about other files inside a store.
    """
    if output is not None and output.exists():
        raise click.UsageError(f"'{output}' exists and may have been edited; delete it, or give another --output.")
    from compress_ssl.pipeline.networks.teachers import TEACHERS
    from compress_ssl.storage import describe, open_store
    from compress_ssl.storage.places.durable import write_durably
    from compress_ssl.storage.tools.card import store_card

    opened = open_store(store)
    teacher = TEACHERS.get(opened.attributes.get("teacher", {}).get("name"))
    card = store_card(opened.path.name, describe(opened), [teacher.citation] if teacher else [])
    if output is not None:
        write_durably(output, card.encode())
    result = {"card": card, "output": str(output) if output else None}
    print_result(
        result, as_json, lambda: echo(*([f"The card is in '{output}'."] if output else card.rstrip().split("\n")))
    )
