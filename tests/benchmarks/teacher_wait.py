"""Waiting for teacher embeddings.

Seconds that training waits for the view of an epoch, in each of three epochs with a view each: CompRess-1q, `conv4-16`,
images of 16 pixels, noise as embeddings of 2,048 dimensions. The first view cannot be prefetched.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.run import distill
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.images.index import index_images
from compress_ssl.pipeline.images.parameters import evaluation_parameters, fresh_parameters
from compress_ssl.pipeline.images.policies import POLICIES
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.storage import SplitPlan
from compress_ssl.storage.parameters import COLUMNS
from compress_ssl.storage.schema import default_block_rows
from compress_ssl.storage.writer import StoreWriter, create_store
from tests.benchmarks.measure import print_table, run

FEATURES, VIEWS, SIDE, EPOCHS = 2048, 3, 16, 3


def synthetic(folder: Path, images: int) -> tuple[Path, Path]:
    """Write many tiny images, and a store with noise for embeddings; paths of store and data."""
    generator = np.random.default_rng(0)
    (folder / "data" / "train").mkdir(parents=True)
    for number in range(images):
        pixels = generator.integers(0, 255, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "data" / "train" / f"{number:06d}.jpg")
    source = open_source(folder / "data", "train", folder)
    samples = index_images(source, source.listing(), folder / "index.npz", threads=2, progress=Silent()).samples
    policy = {"name": "crop-flip", **POLICIES["crop-flip"].model_dump(mode="json")}
    views = [{"policy": {"name": "evaluation", "resize": SIDE}, "seed": 0, "size": SIDE}]
    views += [{"policy": policy, "seed": 0, "size": SIDE}] * VIEWS
    rows = default_block_rows(images, FEATURES)
    create_store(
        folder / "teacher.zarr",
        {"teacher": {"name": "noise"}, "data_set": {"name": "noise"}},
        {"train": SplitPlan(samples, "train", views, COLUMNS, FEATURES, rows)},
    )
    writer = StoreWriter(folder / "teacher.zarr")
    for view in range(len(views)):
        parameters = (
            fresh_parameters(POLICIES["crop-flip"], SIDE, 0, view, samples.image_size)
            if view
            else evaluation_parameters(samples.image_size, SIDE, SIDE)
        )
        for block in writer.pending_blocks("train"):
            part = writer.store["train"].block_slice(block)
            noise = generator.standard_normal((part.stop - part.start, FEATURES), np.float32)
            writer.write_block("train", block, view, noise, parameters[part])
    writer.finish()
    return folder / "teacher.zarr", folder / "data"


def epochs(store: Path, data: Path, run: Path, memory: str, batch_size: int) -> list[tuple[float, float]]:
    """Seconds, and seconds of waiting, of every epoch."""
    settings = DistillSettings(
        store=store,
        data=data,
        run=run,
        student="conv4-16",
        objective="compress-1q",
        epochs=EPOCHS,
        batch_size=batch_size,
        bank_size=1024,
        teacher_memory=memory,
        scratch=run.parent,
    )
    distill(settings, Silent())
    seconds, found = 0.0, []
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        if "teacher_wait_seconds" in line:
            found.append((seconds, line["teacher_wait_seconds"]))
            seconds = 0.0
        else:
            steps = line["step"] % 50 or 50
            seconds += steps * batch_size / line["images_per_second"]
    return found


def main(toy: bool) -> None:
    """Print the waits with views in the device's memory, and in a memory map."""
    images, batch_size = (64, 16) if toy else (10_000, 250)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        store, data = synthetic(Path(scratch), images)
        for memory in ("device", "mapped"):
            found = epochs(store, data, Path(scratch) / memory, memory, batch_size)
            later = sum(wait for _, wait in found[1:]) / sum(seconds for seconds, _ in found[1:])
            waits = ", ".join(f"{wait:.3f}" for _, wait in found)
            rows.append((memory, f"{found[-1][0]:.1f}", waits, f"{100 * later:.2f} %"))
    print(f"{images:,} images, {2 * images * FEATURES / 2**20:,.0f} MiB per view.\n")
    print_table(("memory", "epoch, s", "waiting in each epoch, s", "fraction after the first epoch"), rows)


if __name__ == "__main__":
    run(main)
