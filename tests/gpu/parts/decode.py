"""Decoding alone, against Pillow: views that are a piece of the image as it is, neither resized nor flipped."""

import io
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.rendering import RenderJob
from compress_ssl.storage.parameters import COLUMN
from tests.gpu.run import Run
from tests.gpu.views import differing, job_of, levels_apart, rendered

MEAN_LEVELS = 1.0  # by which an image may be apart from Pillow's, of 255; twice that for CMYK
LEFT, TOP = 5, 7  # of the piece, in pixels


def decode(run: Run) -> None:
    """Photographs and odd JPEGs against Pillow; the same pixels again, and in other batches."""
    renderer = make_renderer("dali", torch.device(run.device), run.threads)
    job = piece_of_each(job_of(run, side=64 if run.toy else 320, policy="identity", count=12 if run.toy else 256))
    ours = rendered(renderer, job, 64)[0]
    apart = levels_apart(ours, by_pillow(job)).mean(axis=(1, 2, 3))
    run.check(
        "photographs as by Pillow", apart.max() < MEAN_LEVELS, mean=float(apart.mean()), worst_image=float(apart.max())
    )
    again = differing(ours, rendered(renderer, job, 64)[0])
    run.check("the same batch again, the same pixels", again == 0, differing=again)
    other = differing(ours, rendered(renderer, job, 7)[0])
    run.check("other batches, the same pixels", other == 0, differing=other, images=len(ours))

    odd = piece_of_each(job_of(run, side=240, policy="identity", data="odd", split="jpegs"))
    for row, path in enumerate(odd.paths):
        with run.attempt(path):
            one = odd.part(slice(row, row + 1))
            # A renderer of its own, as one that failed once may not go on.
            found = levels_apart(
                rendered(make_renderer("dali", renderer.device, run.threads), one, 1)[0], by_pillow(one)
            )
            most = 2 * MEAN_LEVELS if path == "cmyk.jpg" else MEAN_LEVELS
            run.check(path, found.mean() < most, mean=float(found.mean()), largest=int(found.max()))


def piece_of_each(job: RenderJob) -> RenderJob:
    """Return the job whose views are a square of each image that is not its corner, in its own pixels."""
    parameters, (side,) = job.parameters.copy(), job.sizes
    box = {"crop_left": LEFT, "crop_top": TOP, "crop_width": side, "crop_height": side}
    for column, value in box.items():
        parameters[:, :, COLUMN[column]] = value
    return replace(job, parameters=parameters)


def by_pillow(job: RenderJob) -> npt.NDArray[np.uint8]:
    """Return the same squares, decoded by Pillow."""
    (side,) = job.sizes
    images = [Image.open(io.BytesIO(job.read(row))).convert("RGB") for row in range(len(job.paths))]
    return np.stack([np.asarray(image)[TOP : TOP + side, LEFT : LEFT + side] for image in images])
