"""``compress-ssl store export``."""

from pathlib import Path

import click

from compress_ssl.cli.groups import example
from compress_ssl.cli.options import LOCAL_PATH
from compress_ssl.cli.output import echo, json_option, print_result


@click.command("export", epilog=example("compress-ssl store export teacher.zarr --to teacher.h5"))
@click.argument("store", type=click.Path())
@click.option("--to", "file", type=LOCAL_PATH, required=True, help="HDF5 file to write.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it is an exported store.")
@json_option
def command(store: str, file: Path, overwrite: bool, as_json: bool) -> None:
    """Write a complete store as one HDF5 file.

    Arrays and attributes keep their names; 'store import' restores the same store from it, byte for byte.
    """
    from compress_ssl.cli.progress import TerminalProgress
    from compress_ssl.storage import open_store
    from compress_ssl.storage.tools.hdf5 import committed_size, export_hdf5

    opened = open_store(store)
    with TerminalProgress().track("export", committed_size(opened), "bytes") as advance:
        export_hdf5(opened, file, advance, overwrite=overwrite)
    size = file.stat().st_size
    result = {"store": store, "file": str(file), "bytes": size}
    print_result(result, as_json, lambda: echo(f"{file}: {size / 2**20:,.1f} MiB"))
