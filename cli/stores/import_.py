"""``compress-ssl store import``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress_ssl.cli.groups import example
from compress_ssl.cli.options import make_settings, only_given, option_name, settings_options
from compress_ssl.cli.output import echo, json_option, print_result
from compress_ssl.cli.progress import TerminalProgress
from compress_ssl.pipeline.embed.importing.settings import ImportSettings

if TYPE_CHECKING:
    from compress_ssl.storage import EmbeddingStore


@click.command(
    "import",
    epilog=example(
        "compress-ssl store import teacher.h5 teacher.zarr",
        "compress-ssl store import train=train_feats.pth.tar val=val_feats.pth.tar teacher.zarr \\",
        "  --data imagenet --teacher moco-v2-resnet50",
        "compress-ssl store import embeddings.npy teacher.zarr --paths images.txt --data photographs --teacher mine",
    ),
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.argument("store", type=click.Path())
@settings_options(ImportSettings, without=("files", "store"), optional=("data", "teacher"))
@json_option
def command(files: tuple[str, ...], store: str, as_json: bool, **given: Any) -> None:
    """Import an exported store, or embeddings of another program.

    A file from 'store export' needs no options: STORE becomes the exported store, byte for byte. Embeddings of another
    program have one row per image and are given as [SPLIT[:FOLDER]=]FILE: cached features of the published code
    (torch.save), .npy, HDF5 or zarr. --data is the dataset of the images, --teacher the name of the network; students
    learn from such a store with --student-view fresh.
    """
    from compress_ssl.storage import describe
    from compress_ssl.storage.tools.hdf5 import is_exported

    file = Path(files[0])
    if len(files) == 1 and file.is_file() and is_exported(file):
        imported = _import_exported(file, store, given)
    else:
        settings = make_settings(ImportSettings, {"files": files, "store": store, **given})
        from compress_ssl.pipeline.embed.importing.run import import_embeddings

        imported = import_embeddings(settings, TerminalProgress())

    description = describe(imported)
    names = ", ".join(f"{name} {split['samples']:,}" for name, split in description["splits"].items())
    print_result(description, as_json, lambda: echo(f"{store}: {names} images"))


def _import_exported(file: Path, store: str, given: dict[str, Any]) -> EmbeddingStore:
    unused = [option_name(name) for name in only_given(given) if name != "overwrite"]
    if unused:
        raise click.UsageError(f"'{file}' is an exported store, which has all settings; leave {unused[0]} out.")
    from compress_ssl.storage import location, open_store
    from compress_ssl.storage.tools.hdf5 import import_hdf5

    with TerminalProgress().track("import", file.stat().st_size, "bytes") as advance:
        import_hdf5(file, location(store), advance, overwrite=bool(given["overwrite"]))
    return open_store(store)
