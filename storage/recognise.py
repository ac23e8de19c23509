"""Recognising an embedding store, without opening it."""

import json

from compress_ssl.storage.errors import StoreError
from compress_ssl.storage.places.names import ROOT
from compress_ssl.storage.places.place import PlaceLike, location
from compress_ssl.storage.schema import FORMAT_NAME


def is_store(place: PlaceLike) -> bool:
    """Return whether a folder is an embedding store, of any version and however damaged: it may be deleted as one."""
    folder = location(place)
    try:
        attributes = json.loads((folder / ROOT).read_bytes())["attributes"]
        return bool(attributes["format"] == FORMAT_NAME)
    except StoreError:
        raise
    except OSError:
        damaged = folder.is_dir()
    except (ValueError, KeyError, TypeError):
        damaged = True
    return damaged and next(folder.glob("*/embeddings/commits"), None) is not None


def has_zarr_metadata(place: PlaceLike) -> bool:
    """Return whether a folder is meant as a store: if it is none, the error of ``open_store`` explains why."""
    return (location(place) / ROOT).is_file()


def is_meant_as_store(text: str) -> bool:
    """Return whether a user who names a store or a network means a store: a URL, or a folder with zarr's metadata."""
    place = location(text)
    return not place.is_local or has_zarr_metadata(place)
