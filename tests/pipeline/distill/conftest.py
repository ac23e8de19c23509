"""Small images, stores of them made by stage one, and stage two run on them in this process."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.run import distill_together
from compress_ssl.pipeline.distill.settings import DistillSettings, options_for
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.recipe.live_evaluation import live_evaluation
from compress_ssl.storage import open_store
from compress_ssl.storage.schema import SplitPlan
from compress_ssl.storage.writer import StoreWriter, create_store
from tests.pipeline.distill.kinds import with_heads

TINY = {"student": "conv4-16", "epochs": 3, "batch_size": 8, "bank_size": 20, "key_momentum": 0.9,
        "learning_rate": 0.05, "threads": 1, "device": "cpu"}  # fmt: skip
TIMES = {"images_per_second", "data_wait_seconds", "teacher_wait_seconds"}

Students = Callable[..., DistillSettings]
Trained = Callable[..., dict[str, Tensor]]


class Killed(BaseException):
    """What nothing catches."""


class Dying(Silent):
    """Ends the process, as far as a test can, after some steps: their last checkpoints are what stays."""

    def __init__(self, steps: int) -> None:
        self._left = steps + 1  # what is done before the first is told too

    @contextlib.contextmanager
    def track(self, title: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
        def advance(amount: int) -> None:
            self._left -= 1
            if self._left == 0:
                raise Killed

        yield advance


def write_images(root: Path) -> Path:
    """29 images in ``train``, 8 in ``val``, 26 x 22 pixels, half of them JPEG, of two classes."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 29), ("val", 8)):
        for number in range(count):
            folder = root / split / ("apple", "pear")[2 * number // count]
            folder.mkdir(parents=True, exist_ok=True)
            noise = Image.fromarray(generator.integers(0, 255, (6, 7, 3), dtype=np.uint8))
            noise.resize((26, 22)).save(folder / f"{number:03d}.{('png', 'jpg')[number % 2]}")
    return root


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "data")


@pytest.fixture(scope="session")
def store(data: Path) -> Path:
    """Two random views of 16 pixels of ``train`` and view 0 of both splits, in 8 blocks; read it, never change it."""
    path = data.parent / "teacher.zarr"
    embed(
        EmbedSettings(data=data, store=path, teacher="random/conv4-32", seed=5, size=16, resize=18, views=2, threads=1,
                      block_rows=4, device="cpu"),
        Silent(),
    )  # fmt: skip
    return path


@pytest.fixture(scope="session")
def embedded(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A store of another teacher, of the same images in the same views unless told otherwise."""

    def make(**given: Any) -> Path:
        path = tmp_path_factory.mktemp("other") / "other.zarr"
        shared = {"data": data, "teacher": "random/conv4-16", "seed": 5, "size": 16, "resize": 18, "views": 2,
                  "threads": 1, "block_rows": 5, "device": "cpu"}  # fmt: skip
        embed(EmbedSettings(**{**shared, "store": path, **given}), Silent())
        return path

    return make


@pytest.fixture(scope="session")
def other(embedded: Callable[..., Path]) -> Path:
    return embedded()


@pytest.fixture
def rearranged(tmp_path: Path) -> Callable[[str, Path, Sequence[int]], Path]:
    """Make a store of some rows of another's ``train``, in that order, with embeddings and augmentation parameters."""

    def make(name: str, store: Path, rows: Sequence[int]) -> Path:
        opened = open_store(store)
        split, chosen = opened["train"], np.array(rows)
        samples = replace(
            split.samples,
            sample_path=[split.samples.sample_path[row] for row in rows],
            **{
                name: getattr(split.samples, name)[chosen] for name in ("label", "image_size", "content_hash", "status")
            },
        )
        plan = SplitPlan(samples, split.folder, split.views, split.columns, split.feature_dim, block_rows=4)
        attributes = {name: opened.attributes[name] for name in ("teacher", "data_set", "rendering", "computed_with")}
        create_store(tmp_path / name, attributes, {"train": plan})
        writer = StoreWriter(tmp_path / name)
        for block, views in writer.pending_blocks("train").items():
            part = chosen[4 * block : 4 * block + 4]
            for view in views:
                writer.write_block("train", block, view, split.view(view)[part], split.augmentation(view)[part])
        writer.finish()
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    return TINY


@pytest.fixture
def student(data: Path, store: Path, tmp_path: Path) -> Students:
    """Settings of a student in a folder of this test's, tiny unless told otherwise."""

    def make(name: str = "student", **settings: Any) -> DistillSettings:
        shared = options_for(TINY, settings.get("objective"))
        given = {"store": store, "data": data, "run": tmp_path / name, **shared, **settings}
        return DistillSettings(**with_heads(tmp_path, given))

    return make


@pytest.fixture
def trained(student: Students) -> Trained:
    """Train one student; its weights."""

    def run(name: str = "student", **settings: Any) -> dict[str, Tensor]:
        (model,) = distill_together([student(name, **settings)], Silent(), live_evaluation)
        return load_file(model)

    return run


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], None]:
    """Check that two networks have the same weights, bit for bit."""

    def check(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=0, equal_nan=True, msg=name)

    return check


@pytest.fixture(scope="session")
def metrics() -> Callable[[Path], list[dict[str, Any]]]:
    """Metrics of a run, without those that tell the time."""

    def read(run: Path) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        kept = [{name: value for name, value in line.items() if name not in TIMES} for line in lines]
        return [line for line in kept if len(line) > 2]

    return read


@pytest.fixture(scope="session")
def killed_after() -> Callable[[int, Sequence[DistillSettings]], None]:
    """Train students in one pass, and end it without warning after so many steps, before the last of them is saved."""

    def run(steps: int, students: Sequence[DistillSettings]) -> None:
        often = [each.model_copy(update={"checkpoint_minutes": 1e-9}) for each in students]
        with pytest.raises(Killed):
            distill_together(often, Dying(steps), live_evaluation)

    return run
