"""Stores on ``gs://``: written, read, replaced and leased on Google's emulator."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress_ssl.storage import RemotePath, SplitPlan, location, open_store
from compress_ssl.storage.errors import StoreBusyError, StoreExistsError
from compress_ssl.storage.places.connection import PutRefusedError
from compress_ssl.storage.places.place import writer_lease
from compress_ssl.storage.tools.verify import verify_store
from compress_ssl.storage.writer import create_store
from tests.storage.conftest import ATTRIBUTES


@pytest.fixture
def place(google_bucket: str) -> RemotePath:
    found = location(f"{google_bucket}/some/store.zarr")
    assert isinstance(found, RemotePath)
    return found


def test_store_on_google_is_written_read_and_replaced(
    made: Path, place: RemotePath, plan: Callable[..., SplitPlan], fill: Any, files: Any, values: Callable[..., Any]
) -> None:
    with writer_lease(place):
        create_store(place, ATTRIBUTES, {"train": plan(), "val": plan(6, 1)})
        fill(place)
    assert {path.relative_to(place).as_posix(): path.read_bytes() for path in place.files()} == files(
        made / "complete.zarr"
    )
    store = open_store(str(place))
    np.testing.assert_array_equal(store["train"].view(1), values(1, slice(0, 22)))
    assert verify_store(store).ok
    with pytest.raises(StoreExistsError):
        create_store(place, ATTRIBUTES, {"train": plan()})
    create_store(place, ATTRIBUTES, {"other": plan()}, overwrite=True)
    assert open_store(place).split_names == ["other"]
    assert [path.name for path in place.parent.iterdir()] == ["store.zarr"]


def test_put_on_google_is_refused_unless_its_condition_holds(place: RemotePath) -> None:
    first = place.write_bytes(b"1", "create")
    with pytest.raises(PutRefusedError):
        place.write_bytes(b"2", "create")
    second = place.write_bytes(b"1", first)  # the same content has another generation
    with pytest.raises(PutRefusedError):
        place.write_bytes(b"3", first)
    assert place.read() == (b"1", second)


def test_second_writer_on_google_is_refused(place: RemotePath, caplog: pytest.LogCaptureFixture) -> None:
    with (
        writer_lease(place),
        pytest.raises(StoreBusyError, match=rf"'{place}' is being written by process"),
        writer_lease(place),
    ):
        pass
    with writer_lease(place):
        pass
    assert "ignores conditions" not in caplog.text
