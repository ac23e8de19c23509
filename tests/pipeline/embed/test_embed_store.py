"""What stage one puts into a store: every view by its parameters, however the samples are cut into blocks."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn
from torchvision import models
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed import block
from compress_ssl.pipeline.embed.embedder import Embedder, HostRows
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.images.parameters import draw_parameters
from compress_ssl.pipeline.images.renderers.dali import DaliRenderer
from compress_ssl.pipeline.images.renderers.torchvision import TorchvisionRenderer
from compress_ssl.pipeline.images.rendering import RenderJob
from compress_ssl.storage import EmbeddingStore
from compress_ssl.storage.errors import StoreMismatchError
from compress_ssl.storage.writer import StoreWriter
from tests.gpu.parts.photographs import photograph, save
from tests.pipeline.embed.conftest import TINY

Embedded = Callable[..., EmbeddingStore]


def cosine(ours: npt.NDArray[np.floating], theirs: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Of each row of two arrays (N, D)."""
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    return (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)


@torch.inference_mode()
def plain_torchvision(paths: list[Path], size: int, resize: int) -> npt.NDArray[np.float32]:
    """ResNet-18's pooled features (N, 512), by the lines that any torchvision user writes."""
    torch.manual_seed(0)
    network = models.resnet18(weights=None)
    network.fc = nn.Identity()
    transform = Compose(
        [Resize(resize), CenterCrop(size), ToTensor(), Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    )
    batch = torch.stack([transform(pil_loader(str(path))) for path in paths])
    return network.eval()(batch).numpy()


@pytest.fixture(scope="module")
def photo_folder(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 photographs, all classes."""
    folder = tmp_path_factory.mktemp("photos") / "train"
    for path in sorted((photographs / "train").glob("*/*.jpg"))[::41]:
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / path.parent.name / path.name).write_bytes(path.read_bytes())
    return folder.parent


@pytest.mark.parametrize(
    ("renderer", "least_cosine", "tolerance"), [("torchvision", 0.9999, 2e-3), ("dali", 0.999, 0.1)]
)
def test_view_0_holds_what_plain_torchvision_computes(
    photo_folder: Path, tmp_path: Path, embedded: Embedded, renderer: str, least_cosine: float, tolerance: float
) -> None:
    settings = {"teacher": "random/resnet18", "size": 112, "resize": 128, "split": ("train:0",), "renderer": renderer}
    split = embedded(photo_folder, tmp_path / "store.zarr", **settings)["train"]
    paths = [photo_folder / "train" / path for path in split.samples.sample_path]
    expected, found = plain_torchvision(paths, 112, 128), split.view(0)
    assert found.dtype == np.float16
    assert cosine(found, expected).min() >= least_cosine
    assert np.abs(found - expected).max() <= tolerance


def test_every_view_is_there_and_only_view_0_is_not_random(data: Path, tmp_path: Path, embedded: Embedded) -> None:
    store = embedded(data, tmp_path / "store.zarr")
    train, val = store["train"], store["val"]
    assert [view["policy"]["name"] for view in train.views] == ["evaluation", "crop-flip", "crop-flip"]
    assert train.complete_views == [0, 1, 2]
    assert [view["policy"]["name"] for view in val.views] == ["evaluation"]
    assert val.complete_views == [0]
    views = [train.view(view) for view in (0, 1, 2)]
    assert all(np.isfinite(view).all() for view in views)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(views[one] - views[other]).max(axis=1).min() > 0


@pytest.mark.parametrize("policy", ["crop-flip", "moco-v2"])
def test_parameters_and_embeddings_are_the_same_however_the_samples_are_cut_into_blocks(
    data: Path, tmp_path: Path, embedded: Embedded, policy: str
) -> None:
    settings = {"policy": policy, "seed": 3, "batch_size": 1, "split": ("train",)}  # one image per batch: the same sums
    whole = embedded(data, tmp_path / "whole.zarr", block_rows=1000, **settings)["train"]
    assert whole.block_count == 1
    for block_rows in (1, 7, 32):
        split = embedded(data, tmp_path / f"{block_rows}.zarr", block_rows=block_rows, **settings)["train"]
        assert split.block_count == -(-36 // block_rows)
        for view in range(3):
            drawn = draw_parameters(view, split.views[view], np.arange(len(split)), split.samples.image_size)
            assert np.array_equal(split.augmentation(view), drawn)
            assert np.array_equal(split.augmentation(view), whole.augmentation(view))
            assert split.view(view).tobytes() == whole.view(view).tobytes()


def test_few_images_are_one_block_and_few_files(data: Path, tmp_path: Path, embedded: Embedded) -> None:
    store = embedded(data, tmp_path / "store.zarr", split=("train:1", "val:0"), block_rows=None)
    assert [split.block_count for split in store.splits] == [1, 1]
    assert sum(path.is_file() for path in (tmp_path / "store.zarr").rglob("*")) < 50


def test_all_views_of_a_block_come_from_one_reading_and_one_decode(
    data: Path, tmp_path: Path, embedded: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted after the canaries, when the store is there, and with an index that has seen all images before."""
    embedded(data, tmp_path / "first.zarr")
    read: list[Path] = []
    decoded: list[int] = []

    def reading(path: Path) -> bytes:
        if data in path.parents and (tmp_path / "second.zarr").exists():
            read.append(path)
        return read_bytes(path)

    def decoding(job: RenderJob, row: int, content: bytes) -> Image.Image:
        if (tmp_path / "second.zarr").exists():
            decoded.append(len(content))
        return decode(job, row, content)

    read_bytes, decode = Path.read_bytes, RenderJob.decode
    monkeypatch.setattr(Path, "read_bytes", reading)
    monkeypatch.setattr(RenderJob, "decode", decoding)
    embedded(data, tmp_path / "second.zarr", views=6, split=("train",), renderer="torchvision")
    assert len(read) == len(set(read)) == 36
    assert len(decoded) == 36


def test_a_block_is_written_while_the_next_is_computed(
    data: Path, tmp_path: Path, embedded: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write waits for the computing of the next block to begin: if that came after the write, it never would."""
    begun = [threading.Event() for _ in range(4)]
    waited: list[bool] = []
    numbers = iter(range(16))  # of batches: a block has two, in two views each
    embed_images, write_block = block.embed_images, StoreWriter.write_block

    def computing(embedder: Embedder, pixels: Tensor) -> HostRows:
        begun[next(numbers) // 4].set()
        return embed_images(embedder, pixels)

    def writing(writer: StoreWriter, split: str, number: int, *more: Any) -> None:
        waited.append(begun[min(number + 1, 3)].wait(timeout=60))
        write_block(writer, split, number, *more)

    monkeypatch.setattr(block, "embed_images", computing)
    monkeypatch.setattr(StoreWriter, "write_block", writing)
    train = embedded(data, tmp_path / "store.zarr", split=("train:1",), block_rows=9)["train"]
    assert waited == [True] * 8
    assert train.complete_views == [0, 1]


@pytest.mark.parametrize("faster", ["dali", "torchvision"])
def test_auto_takes_the_faster_renderer_and_then_that_of_the_store(
    data: Path,
    tmp_path: Path,
    embedded: Embedded,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    faster: str,
) -> None:
    """The other one has to wait, busily, for each stream of images."""

    def slowly(self: Any, batches: Any, batch_size: int) -> Any:
        begun = time.process_time()
        while time.process_time() < begun + 1:
            pass
        return geometry(self, batches, batch_size)

    slower = TorchvisionRenderer if faster == "dali" else DaliRenderer
    geometry = slower.geometry
    path, given = tmp_path / "store.zarr", {"renderer": "auto", "split": ("train:1",)}
    with monkeypatch.context() as patched, caplog.at_level(logging.INFO):
        patched.setattr(slower, "geometry", slowly)
        store = embedded(data, path, **given)
    assert f"--renderer auto: {faster}, by a trial of 72 views" in caplog.text
    assert store.attributes["rendering"]["renderer"] == faster
    caplog.clear()
    embedded(data, path, resume=True, **given)
    assert "by a trial" not in caplog.text


def test_auto_needs_no_good_image_among_those_of_its_trial(tmp_path: Path, embedded: Embedded) -> None:
    for number in range(128):
        path = tmp_path / "data" / "train" / f"{number:03d}.jpg"
        save(path, photograph(number, 24, 20))
        if number % 2 == 0:
            path.write_bytes(b"no image")
    given = {"renderer": "auto", "on_bad_image": "skip", "split": ("train:1",)}
    store = embedded(tmp_path / "data", tmp_path / "store.zarr", **given)
    assert store["train"].samples.good.sum() == 64
    assert store.attributes["rendering"]["renderer"] == "dali"


def test_parts_that_have_no_blocks_are_told(
    data: Path, tmp_path: Path, embedded: Embedded, caplog: pytest.LogCaptureFixture
) -> None:
    embedded(data, tmp_path / "store.zarr", part="1/3", block_rows=12)
    assert "parts have work" not in caplog.text
    embedded(data, tmp_path / "other.zarr", part="1/4", block_rows=12)
    assert "Only 3 of 4 parts have work: no split has more than 3 blocks." in caplog.text


def test_auto_is_refused_where_other_machines_share_the_work() -> None:
    for shared in ({"part": "1/2"}, {"workers": 2}):
        given = {"data": "data", "store": "s.zarr", "teacher": "random/conv4-16", "renderer": "auto", **shared}
        with pytest.raises(ValidationError, match="--renderer auto measures this machine"):
            EmbedSettings.model_validate(given)


@pytest.mark.parametrize("renderer", ["dali", "torchvision"])
def test_scaled_decoding_is_kept_by_what_continues_a_store(tmp_path: Path, embedded: Embedded, renderer: str) -> None:
    for number in range(6):
        save(tmp_path / "data" / "train" / f"{number}.jpg", photograph(number, 70 + 20 * number, 90))
    given = {"split": ("train:1",), "renderer": renderer, "scaled_decoding": True, "block_rows": 4}
    whole = embedded(tmp_path / "data", tmp_path / "whole.zarr", **{**given, "split": ("train:2",)})["train"]
    path = tmp_path / "store.zarr"
    embedded(tmp_path / "data", path, part="1/2", **given)
    with pytest.raises(StoreMismatchError, match="scaled decoding"):
        embedded(tmp_path / "data", path, resume=True, **{**given, "scaled_decoding": False})
    embedded(tmp_path / "data", path, resume=True, **given)
    grow = {"add_views": 1, "teacher": TINY["teacher"], "threads": 1, "renderer": renderer, "batch_size": 5}
    grow |= {"data": tmp_path / "data", "store": path}
    with pytest.raises(StoreMismatchError, match="with scaled decoding = 4, now it is 1"):
        embed(EmbedSettings(**grow, scaled_decoding=False), Silent())
    grown = embed(EmbedSettings(**grow), Silent())["train"]
    for view in range(3):
        assert grown.view(view).tobytes() == whole.view(view).tobytes()
        assert grown.augmentation(view).tobytes() == whole.augmentation(view).tobytes()


def test_a_store_is_continued_with_the_blocks_that_it_was_begun_with(
    data: Path, tmp_path: Path, embedded: Embedded
) -> None:
    path = tmp_path / "store.zarr"
    embedded(data, path, part="1/2", block_rows=4)
    assert embedded(data, path, part="2/2", block_rows=None, resume=True).is_complete
    with pytest.raises(StoreMismatchError, match="block_rows"):
        embedded(data, path, block_rows=5, resume=True)


def test_views_of_a_block_are_written_side_by_side(
    data: Path, tmp_path: Path, embedded: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write waits for that of the other view to begin."""
    begun, write_block = threading.Barrier(2, timeout=60), StoreWriter.write_block

    def writing(writer: StoreWriter, *arguments: Any) -> None:
        begun.wait()
        write_block(writer, *arguments)

    monkeypatch.setattr(StoreWriter, "write_block", writing)
    train = embedded(data, tmp_path / "store.zarr", split=("train:1",), block_rows=9)["train"]
    assert train.complete_views == [0, 1]
