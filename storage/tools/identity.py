"""Checks that a store was made of given images with given settings; the error names the first difference."""

import json
from collections.abc import Mapping
from typing import Any

import xxhash

from compress_ssl.storage.commits import read_records
from compress_ssl.storage.errors import StoreMismatchError
from compress_ssl.storage.places.place import PlaceLike
from compress_ssl.storage.reader import EmbeddingStore
from compress_ssl.storage.schema import Samples


def content_hash(store: EmbeddingStore) -> str:
    """Return the XXH3-128 of a store's attributes and of the hashes of all that is committed, in hexadecimal."""
    records = {split.name: {unit: read_records(split.path, unit) for unit in split.units} for split in store.splits}
    views = {split.name: split.views for split in store.splits}
    return xxhash.xxh3_128_hexdigest(json.dumps([dict(store.attributes), views, records], sort_keys=True).encode())


def check_same(store_path: PlaceLike, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Check that a store was made with these attributes.

    Raises:
        StoreMismatchError: Naming the first attribute that differs.
    """
    for key, value in wanted.items():
        if found.get(key) != value:
            raise StoreMismatchError(
                f"'{store_path}' was made with {key} = {found.get(key)!r}, now it is {value!r}; use the "
                "settings it was made with, another path, or --overwrite."
            )


def check_same_samples(split_name: str, found: Samples, wanted: Samples) -> None:
    """Check that a split holds exactly these images, in this order and with these labels.

    Raises:
        StoreMismatchError: Naming the first row that differs, or if the labels do.
    """
    for row, (old, new) in enumerate(zip(found.sample_path, wanted.sample_path, strict=False)):
        same_bytes = found.content_hash[row] == wanted.content_hash[row]
        if old != new or not same_bytes:
            what = f"'{old}' in the store and '{new}' in the data" if old != new else f"'{old}' with other content"
            raise StoreMismatchError(
                f"The store was made from other images: row {row} of split {split_name} is {what}; give the "
                "images it was made from, or another store."
            )
    if len(found) != len(wanted):
        raise StoreMismatchError(
            f"The store was made from other images: split {split_name} has {len(found)} rows in the store and "
            f"{len(wanted)} in the data (the first {min(len(found), len(wanted))} agree); give the images it "
            "was made from, or another store."
        )
    if found.class_names != wanted.class_names or (found.label != wanted.label).any():
        raise StoreMismatchError(
            f"The store was made with other labels: those of split {split_name} differ from the data's; give the "
            "labels it was made with, another store, or --overwrite."
        )
