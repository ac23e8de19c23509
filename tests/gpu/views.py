"""Views rendered by the product's renderers, outside the stages."""

import time

import numpy as np
import numpy.typing as npt

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.common.settings import ImageSelection
from compress_ssl.pipeline.images.data_set import index_data_set
from compress_ssl.pipeline.images.parameters import fresh_parameters
from compress_ssl.pipeline.images.policies import POLICIES
from compress_ssl.pipeline.images.rendering import Renderer, RenderJob, render
from tests.gpu.run import Run

SEED = 0


def job_of(
    run: Run, *, side: int, views: int = 1, policy: str = "crop-flip", count: int | None = None, data: str = "photos",
    split: str = "train",
) -> RenderJob:  # fmt: skip
    """Return the job of rendering some random views, all of one side in pixels, of the first images of a split."""
    selection = ImageSelection(index_folder=run.folder / "index")
    place = run.folder / data
    index = index_data_set(place, [split], place, selection, threads=run.threads, progress=Silent())[split]
    samples, rows = index.samples, np.arange(len(index.samples))[:count]
    drawn = [
        fresh_parameters(POLICIES[policy], side, SEED, view, samples.image_size)[rows] for view in range(1, views + 1)
    ]
    return RenderJob.of(index.source, samples, rows, parameters=np.stack(drawn, axis=1), sizes=(side,) * views)


def rendered(renderer: Renderer, job: RenderJob, batch_size: int) -> list[npt.NDArray[np.uint8]]:
    """Return every view of a job, (N, S, S, 3)."""
    batches = [[view.cpu().numpy() for view in views] for views in render(renderer, job, batch_size)]
    return [np.concatenate(view) for view in zip(*batches, strict=True)]


def levels_apart(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    """Return the absolute differences of pixels, in levels of 255."""
    return np.abs(one.astype(np.int16) - other)


def differing(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> int:
    """Count the images (N, S, S, 3) that are not the same pixel by pixel."""
    return int((one != other).any(axis=(1, 2, 3)).sum())


def rendering_pace(renderer: Renderer, job: RenderJob, batch_size: int = 128) -> float:
    """Return the views per second of the second of two rounds."""
    for _ in range(2):
        begun = time.perf_counter()
        for views in render(renderer, job, batch_size):
            last = views[0]
        last.cpu()
    return len(job.paths) * len(job.sizes) / (time.perf_counter() - begun)
