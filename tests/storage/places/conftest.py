"""Stores in a bucket."""

from pathlib import Path

import pytest

from compress_ssl.storage import LocalPath, RemotePath, location
from compress_ssl.storage.places.parallel import map_threads


@pytest.fixture
def remote(bucket: str) -> RemotePath:
    place = location(f"{bucket}/some/store.zarr")
    assert isinstance(place, RemotePath)
    return place


@pytest.fixture
def finished(remote: RemotePath, made: Path) -> RemotePath:
    """The finished store, uploaded; ``test_places_remote.py`` shows that one written there has the same objects."""
    folder = LocalPath(made / "complete.zarr")
    keys = [file.relative_to(folder).as_posix() for file in folder.files()]
    list(map_threads(lambda key: (remote / key).write_bytes((folder / key).read_bytes()), keys))
    return remote
