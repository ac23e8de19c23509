"""An estimate against the store that is made afterwards: bytes and files are the same, time is of its order."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed.estimate import Estimate, WarmUp, compare_with_live_teacher, estimate
from compress_ssl.pipeline.embed.plan import EmbedPlan
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.storage import Place, Samples, SplitPlan, location
from compress_ssl.storage.tools.size import StoreSize, size_on_disk

TINY: dict[str, Any] = {
    "teacher": "random/conv4-16", "size": 16, "resize": 16, "views": 2, "batch_size": 16, "threads": 1,
    "split": ("train", "val:0"), "on_bad_image": "skip", "block_rows": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 images in ``train``, of which one is bad, 40 in ``val``."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for split, count in (("train", 150), ("val", 40)):
        for number in range(count):
            path = root / split / "ab"[number % 2] / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 255, (20, 18, 3), dtype=np.uint8)).save(path)
    (root / "train/a/004.png").write_bytes(b"no image")
    return root


def settings_of(data: Path, store: Place, **changed: Any) -> EmbedSettings:
    return EmbedSettings.model_validate({"data": data, "store": store, **TINY, **changed})


def test_bytes_and_files_are_those_of_the_store_that_is_made(data: Path, tmp_path: Path) -> None:
    settings = settings_of(data, tmp_path / "new" / "s.zarr")
    found = estimate(settings, Silent())
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_dir()) == ["index", "new"]
    begun = time.perf_counter()
    embed(settings, Silent())
    seconds = time.perf_counter() - begun
    made = size_on_disk(tmp_path / "new" / "s.zarr")
    assert found.files == made.files
    assert found.bytes == pytest.approx(made.bytes, rel=0.001)
    assert (found.images, found.views, found.views_to_do) == (189, 149 * 3 + 40, 149 * 3 + 40)
    assert found.fits
    assert 0.1 * seconds < found.seconds < 10 * seconds  # other processes use the machine too


def test_only_what_is_missing_counts(data: Path, tmp_path: Path) -> None:
    settings = settings_of(data, tmp_path / "s.zarr")
    embed(settings, Silent())
    done = estimate(settings.model_copy(update={"resume": True}), Silent())
    assert (done.views_to_do, done.bytes_to_write) == (0, 0)
    more = estimate(settings_of_more(data, tmp_path / "s.zarr"), Silent())
    assert more.views == 149 * 5 + 40
    assert more.views_to_do == pytest.approx(149 * 2, abs=6)  # blocks are counted as if all were full
    assert more.bytes > done.bytes


def test_a_store_that_was_begun_with_other_blocks_keeps_them(data: Path, tmp_path: Path) -> None:
    settings = settings_of(data, tmp_path / "s.zarr")
    begun = size_on_disk(Path(str(embed(settings, Silent()).path)))
    again = estimate(settings.model_copy(update={"resume": True, "block_rows": None}), Silent())
    assert again.files == begun.files
    assert again.bytes == pytest.approx(begun.bytes, rel=0.001)


def settings_of_more(data: Path, store: Path) -> EmbedSettings:
    given = {name: value for name, value in TINY.items() if name not in ("views", "split", "block_rows")}
    return EmbedSettings.model_validate({"data": data, "store": store, **given, "add_views": 2})


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Estimate:
    return estimate(settings_of(data, tmp_path_factory.mktemp("whole") / "s.zarr"), Silent())


def test_two_blocks_of_a_split_are_timed_however_little_time_there_is(
    data: Path, tmp_path: Path, whole: Estimate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress_ssl.pipeline.embed.estimate.SECONDS", 0.0)
    found = estimate(settings_of(data, tmp_path / "s.zarr"), Silent())
    assert found.warm_up_images == 2 * 8 + 2 * 8 - 1  # a bad image is among the first
    assert whole.warm_up_images == 149 + 40
    assert found.views_to_do == whole.views_to_do


def test_a_part_is_a_share(data: Path, tmp_path: Path, whole: Estimate) -> None:
    part = estimate(settings_of(data, tmp_path / "s.zarr", part="1/3"), Silent())
    assert part.views_to_do == pytest.approx(whole.views_to_do / 3, abs=1)
    assert part.bytes == whole.bytes
    assert part.bytes_to_write < 0.6 * whole.bytes_to_write


def test_what_cannot_be_embedded_is_said(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--size 32 is larger than --resize 16"):
        estimate(settings_of(data, tmp_path / "s.zarr", size=32), Silent())
    assert list(tmp_path.iterdir()) == []


def plan_of(count: int, feature_dim: int) -> EmbedPlan:
    samples = Samples([""] * count, *(np.zeros(count, np.int64) for _ in range(4)))  # type: ignore[arg-type]
    return EmbedPlan({}, {}, {"train": SplitPlan(samples, "train", [], (), feature_dim, 10)})


@pytest.mark.parametrize(
    ("forward", "rate", "work"), [(0.01, 1e6, 50.0), (0.01, 1e6, 0.1), (0.002, 1e6, 1e4), (1e-6, 1e3, 5)]
)
def test_the_store_pays_from_the_first_epoch_in_which_it_took_less_time(
    forward: float, rate: float, work: float
) -> None:
    """Epoch by epoch, as a person would add it up."""
    measured = WarmUp({}, np.zeros(2), forward, rate, StoreSize(), 0)
    found = compare_with_live_teacher(plan_of(100, 64), measured, work)
    live, reading = 100 * forward, 100 * 64 * 2 / rate
    expected = next((epoch for epoch in range(1, 100_000) if work + epoch * reading < epoch * live), None)
    assert found["pays_off_after_epochs"] == expected
    assert math.isclose(found["live_teacher_seconds_per_epoch"], live)


def test_an_estimate_is_json(whole: Estimate) -> None:
    assert Estimate.model_validate_json(whole.model_dump_json()) == whole


def test_a_bucket_is_written_to_and_left_as_it_was(data: Path, bucket: str) -> None:
    place = location(f"{bucket}/s.zarr")
    found = estimate(settings_of(data, place), Silent())
    assert (found.disk_left, found.fits) == (None, None)
    assert found.reading_seconds_per_epoch > 0
    assert list(place.parent.iterdir()) == []
