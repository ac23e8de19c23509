"""Canaries: silent where pixels come out the same, a warning where they differ a little, a refusal where by much."""

import base64
import itertools
import json
import logging
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.images.canaries import CANARIES, check_canaries, choose_canaries
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.sources.files import FolderSource
from compress_ssl.storage import EmbeddingStore, open_store

Change = Callable[[dict[str, Any]], None]


def test_canaries_are_spread_over_the_good_rows_and_all_views() -> None:
    for images, view_count in itertools.product((1, 2, 7, 16, 1600), (1, 3, 5, 16, 40)):
        good = np.ones(images + 1, bool)
        good[images // 2] = False
        chosen = choose_canaries(good, view_count)
        assert len(chosen) == len(set(chosen)) == min(CANARIES, images * view_count)
        assert all(good[row] for row, _ in chosen)
        assert len({view for _, view in chosen}) == min(view_count, len(chosen))
        rows = sorted({row for row, _ in chosen})
        assert len(rows) == min(images, len(chosen))
        assert np.diff(rows).max(initial=0) <= images // len(rows) + 2


@pytest.fixture(scope="module")
def made(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EmbeddingStore]:
    """The folder of photographs, and a store that DALI rendered."""
    settings = EmbedSettings(
        data=photographs, store=tmp_path_factory.mktemp("canaries") / "store.zarr", teacher="random/conv4-16",
        split=("train", "test:0"), limit=30, views=2, size=96, resize=112, policy="moco-v2", threads=1, block_rows=30,
    )  # fmt: skip
    return photographs, embed(settings, Silent())


@pytest.fixture
def changed(made: tuple[Path, EmbeddingStore], tmp_path: Path) -> Callable[..., EmbeddingStore]:
    """The store's groups under other attributes: made by ``change`` from its own, or those of its train canaries."""

    def apply(change: Change, every_canary: bool = True) -> EmbeddingStore:
        store = made[1]
        attributes = json.loads((store.path / "zarr.json").read_text())["attributes"]
        for part in attributes["canaries"]["train"] if every_canary else [attributes]:
            change(part)
        other = open_store(store.path)
        other.attributes = attributes
        return other

    return apply


def check(data: Path, store: EmbeddingStore, renderer: str = "dali", split: str = "train") -> None:
    source = FolderSource(data / store[split].folder)
    check_canaries(store, split, source, make_renderer(renderer, torch.device("cpu"), 2), 7)


def other_hash(canary: dict[str, Any]) -> None:
    canary["xxh3_128"] = "0" * 32


def lighter_by(levels: int) -> Change:
    def change(canary: dict[str, Any]) -> None:
        pixels = np.frombuffer(base64.b64decode(canary["picture"]), np.uint8).astype(int)
        moved = np.where(pixels < 128, pixels + levels, pixels - levels).astype(np.uint8)
        canary["picture"] = base64.b64encode(moved.tobytes()).decode()
        other_hash(canary)

    return change


def test_the_same_pixels_are_silent_at_another_batch_size_and_thread_count(
    made: tuple[Path, EmbeddingStore], caplog: pytest.LogCaptureFixture
) -> None:
    for split in ("train", "test"):
        check(*made, split=split)
    assert caplog.records == []


def test_another_renderer_is_warned_of_with_the_mean_difference(
    made: tuple[Path, EmbeddingStore], caplog: pytest.LogCaptureFixture
) -> None:
    check(*made, renderer="torchvision")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert "canaries of split train of" in message
    assert "(then: dali on cpu; now: torchvision on cpu); up to 1 is accepted." in message
    mean = float(message.partition(" by ")[2].split()[0])
    assert 0.02 < mean < 0.5  # DALI and torchvision: 0.15 in whole views (test_images_renderers.py)


def test_a_difference_outside_the_picture_is_warned_of(
    made: tuple[Path, EmbeddingStore], changed: Callable[..., EmbeddingStore], caplog: pytest.LogCaptureFixture
) -> None:
    check(made[0], changed(other_hash))
    assert "16 of 16 canaries" in caplog.messages[0]
    assert "by 0.000 of 255 levels in the mean" in caplog.messages[0]


def test_one_level_is_let_pass_and_more_is_refused(
    made: tuple[Path, EmbeddingStore], changed: Callable[..., EmbeddingStore], caplog: pytest.LogCaptureFixture
) -> None:
    check(made[0], changed(lighter_by(1)))
    assert "by 1.000 of 255 levels" in caplog.messages[0]
    with pytest.raises(InputError, match=r"by 2\.000 of 255 levels .*more than 1 is refused: use the renderer"):
        check(made[0], changed(lighter_by(2)))


def test_versions_that_differ_are_named(
    made: tuple[Path, EmbeddingStore], changed: Callable[..., EmbeddingStore], caplog: pytest.LogCaptureFixture
) -> None:
    def older(attributes: dict[str, Any]) -> None:
        attributes["computed_with"]["versions"]["torch"] = "1.0"
        for canary in attributes["canaries"]["train"]:
            other_hash(canary)

    check(made[0], changed(older, every_canary=False))
    assert f"then: dali on cpu, torch 1.0; now: dali on cpu, torch {version('torch')}" in caplog.messages[0]


def test_a_store_without_canaries_is_silent(
    made: tuple[Path, EmbeddingStore], changed: Callable[..., EmbeddingStore], caplog: pytest.LogCaptureFixture
) -> None:
    check(made[0], changed(lambda attributes: attributes.pop("canaries"), every_canary=False), renderer="torchvision")
    assert caplog.records == []


def test_canaries_are_the_stored_views_of_the_split_and_small(made: tuple[Path, EmbeddingStore]) -> None:
    store = made[1]
    canaries = store.attributes["canaries"]
    assert {name: len(entries) for name, entries in canaries.items()} == {"train": 16, "test": 16}
    assert len(json.dumps(canaries)) < 2**16
    for name, entries in canaries.items():
        for canary in entries:
            stored = store[name].augmentation(canary["view"])[canary["row"]]
            assert np.array_equal(np.array(canary["parameters"], np.float32), stored)
            assert canary["size"] == store[name].views[canary["view"]]["size"]


def test_going_on_with_a_store_whose_pixels_do_not_come_out_is_refused(
    photographs: Path, tmp_path: Path, made: tuple[Path, EmbeddingStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same settings, but a renderer that has become lighter."""
    from compress_ssl.pipeline.images import rendering

    settings = EmbedSettings(
        data=photographs, store=made[1].path, teacher="random/conv4-16", split=("train", "test:0"), limit=30,
        views=2, size=96, resize=112, policy="moco-v2", threads=1, block_rows=30, resume=True,
    )  # fmt: skip
    monkeypatch.setattr(rendering, "apply_colour", lambda images, parameters: images // 2)
    with pytest.raises(InputError, match=r"canaries of split train of .* more than 1 is refused"):
        embed(settings, Silent())


def test_canaries_of_what_the_store_has_not_are_refused_before_they_are_rendered(
    made: tuple[Path, EmbeddingStore], changed: Callable[..., EmbeddingStore]
) -> None:
    wrong: list[dict[str, object]] = [
        {"row": 10**9}, {"row": -1}, {"view": 7}, {"size": 10**7}, {"size": None}, {"parameters": [1.0]},
        {"parameters": "x"},
    ]  # fmt: skip
    for values in wrong:
        store = changed(lambda canary, values=values: canary.update(values))
        with pytest.raises(InputError, match=r"The canaries of split train of '.*' cannot be read"):
            check(made[0], store)
