"""What does not fit on the disk is refused before anything is written; how large a store will be is known exactly."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from compress_ssl.storage import EmbeddingStore, SplitPlan, location
from compress_ssl.storage.errors import DiskSpaceError
from compress_ssl.storage.tools.size import StoreSize, samples_size, size_on_disk, views_size

Embedded = Callable[..., EmbeddingStore]
FILE = 4096


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the disk have so many bytes left."""

    def leave(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12 - free, free))

    return leave


def predicted(store: EmbeddingStore) -> StoreSize:
    """Size without zarr.json."""
    size = StoreSize()
    for name in store.split_names:
        split = store[name]
        plan = SplitPlan(split.samples, split.folder, split.views, split.columns, split.feature_dim, split.block_rows)
        size = size.plus(views_size(plan)).plus(samples_size(plan))
    return size


def test_size_is_known_to_the_byte(data: Path, tmp_path: Path, embedded: Embedded) -> None:
    cases: list[dict[str, Any]] = [
        {"block_rows": None}, {"block_rows": 7}, {"views": 1, "block_rows": 36}, {"split": ("val:3",)}
    ]  # fmt: skip
    for number, settings in enumerate(cases):
        place = tmp_path / f"{number}.zarr"
        store = embedded(data, place, **settings)
        metadata = [file.stat().st_size for file in place.rglob("zarr.json")]
        assert size_on_disk(place) == predicted(store).plus(StoreSize(sum(metadata), len(metadata))), settings


def test_what_does_not_fit_is_refused_and_nothing_written(
    data: Path, tmp_path: Path, embedded: Embedded, disk: Callable[[int], None]
) -> None:
    disk(100_000)
    sentence = r"Writing '.*' needs [\d.]+ KiB, and '.*' has 97\.7 KiB left; free some space, give another path, "
    sentence += r"or lower --views\."
    with pytest.raises(DiskSpaceError, match=sentence):
        embedded(data, tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_the_space_of_a_store_that_is_overwritten_counts_for_its_blocks(
    data: Path, tmp_path: Path, embedded: Embedded, disk: Callable[[int], None]
) -> None:
    size = predicted(embedded(data, tmp_path / "s.zarr"))
    needed = size.bytes + size.files * FILE
    old = size_on_disk(tmp_path / "s.zarr").bytes
    disk(needed - old - 1)
    with pytest.raises(DiskSpaceError, match=r"left, and [\d.]+ KiB that the old store takes; free some space"):
        embedded(data, tmp_path / "s.zarr", overwrite=True)
    assert size_on_disk(tmp_path / "s.zarr").bytes == old
    disk(needed - old)
    embedded(data, tmp_path / "s.zarr", overwrite=True)


def test_going_on_needs_the_space_of_what_is_missing_only(
    data: Path, tmp_path: Path, embedded: Embedded, disk: Callable[[int], None]
) -> None:
    settings = {"split": ("val:0",), "block_rows": 1}
    store = embedded(data, tmp_path / "s.zarr", **settings)
    before = store["val"].view(0).tobytes()
    (tmp_path / "s.zarr/val/embeddings/commits/0.json").unlink()
    blocks, columns = store["val"].block_count, len(store["val"].columns)
    needed = blocks * (2 * 16 + 4 + 4 * columns + 4) + blocks * 2 * FILE
    disk(needed - 1)
    with pytest.raises(DiskSpaceError, match="free some space; what is there stays"):
        embedded(data, tmp_path / "s.zarr", resume=True, **settings)
    disk(needed)
    assert embedded(data, tmp_path / "s.zarr", resume=True, **settings)["val"].view(0).tobytes() == before


def test_the_disk_is_that_of_the_nearest_folder_there_is(tmp_path: Path) -> None:
    free = location(tmp_path / "not" / "yet" / "s.zarr").free_bytes()
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, abs=10**9)
