"""Names that stay in the folder they are relative to: of images in a dataset, of splits in a store."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from compress_ssl.storage.errors import StoreUnsafeError

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = "zarr.json"  # name of the file that makes a folder a store: deleted first, written last

LEAVES = re.compile(r"^[/\\]|^[A-Za-z]:[/\\]|(?:^|[/\\])\.\.(?:[/\\]|$)|\0")
"""Names that lead out of their folder (absolute ones, drives, ``..``), or hold NUL, which ends a C string."""

SUSPICIOUS = ("..", "\0", "\\", ":", "\n/")  # every such name has one of these, if names are joined by newlines


def check_split_names(store: object, names: Sequence[object]) -> None:
    """Check that every split is a folder of the store.

    Raises:
        StoreUnsafeError: Naming the first that is not.
    """
    for name in names:
        if not isinstance(name, str) or name in ("", ".") or "/" in name or "\\" in name or LEAVES.search(name):
            raise StoreUnsafeError(
                f"'{store}/zarr.json' names a split {name!r}, which is no folder of the store; it was not opened."
            )


def check_inside(where: str, names: Sequence[str]) -> None:
    """Check that names stay in the folder that they are relative to.

    Raises:
        StoreUnsafeError: Naming the first that does not.
    """
    name = first_outside(names)
    if name is not None:
        raise StoreUnsafeError(f"{where} names {name!r}, which leads out of the dataset; it was not opened.")


def first_outside(names: Sequence[str]) -> str | None:
    """Return the first name that leads out of the folder it is relative to; None if all stay in it."""
    text = "\n".join(("", *names))
    if not any(sign in text for sign in SUSPICIOUS):  # a million names in milliseconds
        return None
    return next((name for name in names if LEAVES.search(name)), None)
