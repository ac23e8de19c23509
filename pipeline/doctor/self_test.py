"""Self-test of ``doctor``: every stage once, on a few small images. Each step returns its finding, or raises."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.storage import location

SIZE = 32  # side of all views, in pixels
IMAGES = {"train": 24, "val": 8}
ALLOWED_DIFFERENCE = 2.0
"""Tolerated mean difference of the two renderers, in levels of 255; a wrong crop differs by tens."""


def write_images(folder: Path) -> str:
    """Write JPEGs of two classes: vertical and horizontal waves."""
    from PIL import Image

    rows, columns = np.mgrid[:60, :48]
    for split, count in IMAGES.items():
        for number in range(count):
            name, along = ("upright", columns) if number % 2 else ("lying", rows)
            path = folder / "data" / split / name / f"{number:02d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            wave = 127 + 100 * np.sin(along / (2 + number % 5) + number)
            Image.fromarray(np.stack([wave, 255 - wave, rows * 4.0], -1).astype(np.uint8)).save(path)
    return f"{sum(IMAGES.values())} images written"


def compare_renderers(folder: Path) -> str:
    """Render random crops with DALI and with torchvision, and compare them."""
    from compress_ssl.pipeline.common.device import prepare_device
    from compress_ssl.pipeline.common.settings import ImageSelection
    from compress_ssl.pipeline.images.data_set import index_data_set
    from compress_ssl.pipeline.images.parameters import fresh_parameters
    from compress_ssl.pipeline.images.policies import POLICIES
    from compress_ssl.pipeline.images.renderers import make_renderer
    from compress_ssl.pipeline.images.rendering import RenderJob, render

    selection, cache = ImageSelection(), folder / "crops"
    train = index_data_set(folder / "data", ["train"], cache, selection, threads=1, progress=Silent())["train"]
    parameters = fresh_parameters(POLICIES["crop-flip"], SIZE, 0, 1, train.samples.image_size)
    rows = np.arange(len(train.samples))
    job = RenderJob.of(train.source, train.samples, rows, parameters=parameters[:, None], sizes=(SIZE,))
    rendered = []
    for name in ("dali", "torchvision"):
        batches = render(make_renderer(name, prepare_device("auto", 1), 1), job, len(job.paths))
        rendered.append(np.concatenate([views[0].cpu().numpy() for views in batches]).astype(np.float32))
    difference = float(abs(rendered[0] - rendered[1]).mean())
    if difference > ALLOWED_DIFFERENCE:
        raise RuntimeError(
            f"DALI and torchvision differ by {difference:.1f} levels of 255 on average, more than "
            f"{ALLOWED_DIFFERENCE}; use --renderer torchvision"
        )
    return f"DALI and torchvision differ by {difference:.2f} levels of 255 on average"


def embed_images(folder: Path) -> str:
    """Write a store."""
    from compress_ssl.pipeline.embed.run import embed
    from compress_ssl.pipeline.embed.settings import EmbedSettings

    settings = EmbedSettings.model_validate(
        {
            "data": folder / "data",
            "store": folder / "teacher.zarr",
            "teacher": "random/conv4-16",
            "split": ["train", "val:0"],
            "views": 2,
            "size": SIZE,
            "resize": SIZE,
        }
    )
    train = embed(settings, Silent())["train"]
    return f"a store of {len(train)} images, {len(train.views)} views"


def distill_student(folder: Path) -> str:
    """Train a student for one epoch."""
    from compress_ssl.pipeline.distill.run import distill
    from compress_ssl.pipeline.distill.settings import DistillSettings

    settings = DistillSettings(
        store=location(folder / "teacher.zarr"),
        data=folder / "data",
        run=folder / "student",
        student="conv4-16",
        epochs=1,
        batch_size=8,
        bank_size=16,
    )
    distill(settings, Silent())
    return "a student of one epoch"


def evaluate_student(folder: Path) -> str:
    """Score the student."""
    from compress_ssl.pipeline.evaluate.run import evaluate
    from compress_ssl.pipeline.evaluate.settings import KnnSettings

    settings = KnnSettings(model=str(folder / "student"), data=folder / "data", size=SIZE, resize=SIZE, neighbours=())
    accuracy = evaluate(settings, Silent()).result.scores()["NN"]
    return f"nearest neighbour, {accuracy:.0f} % of {IMAGES['val']} images"


STEPS: dict[str, Callable[[Path], str]] = {
    "images": write_images,
    "rendering": compare_renderers,
    "embed": embed_images,
    "distill": distill_student,
    "evaluate": evaluate_student,
}
