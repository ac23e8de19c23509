"""Error of a teacher in half precision: how far the distributions that students learn are from float32's.

Letters: N images, D features, B batch.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.rows import evenly_spaced
from compress_ssl.pipeline.embed.embedder import Embedder, embed_images
from compress_ssl.pipeline.embed.plan import EmbedPlan
from compress_ssl.pipeline.images.parameters import draw_parameters
from compress_ssl.pipeline.images.rendering import RenderJob, render
from compress_ssl.storage.schema import EVALUATION_VIEW

IMAGES = 1000
TEMPERATURE = 0.04  # CompRess's (Koohpayegani et al. 2020, section 4).

logger = logging.getLogger(__name__)


def anchor_divergence(
    reference: npt.NDArray[np.floating], other: npt.NDArray[np.floating], temperature: float = TEMPERATURE
) -> tuple[float, float]:
    """Return KL(reference || other) of each image's distribution over all other images as its anchors.

    Args:
        reference, other (float arrays of shape (N, D)): L2-normalised embeddings of the same images, N at least 2.
        temperature: Divides the similarities.

    Returns:
        mean, largest: KL divergence over the images, in nats: CompRess (Koohpayegani et al. 2020), equations 1 and 2,
            without the queries' own images.
    """
    others = ~torch.eye(len(reference), dtype=torch.bool)
    log_p, log_q = (
        torch.log_softmax((rows @ rows.T / temperature)[others].view(len(rows), -1), dim=1)  # (N, N - 1)
        for rows in (torch.from_numpy(each).double() for each in (reference, other))
    )
    divergences = (log_p.exp() * (log_p - log_q)).sum(dim=1)  # (N,)
    return float(divergences.mean()), float(divergences.max())


def measure_precision(embedder: Embedder, plan: EmbedPlan, progress: Progress) -> dict[str, Any]:
    """Compare the embedder's precision with float32 on view 0 of up to 1,000 images of the first split.

    Returns:
        attributes: Of the store; empty in float32, and for fewer than two good images.

    Raises:
        InputError: If an output is not finite in this precision, or an image is missing or has changed.
    """
    name, split = next(iter(plan.splits.items()))
    samples, view = split.samples, split.views[EVALUATION_VIEW]
    rows = evenly_spaced(np.flatnonzero(samples.good), IMAGES)
    if embedder.precision == "float32" or len(rows) < 2:
        return {}
    job = RenderJob.of(
        plan.indexes[name].source,
        samples,
        rows,
        parameters=draw_parameters(EVALUATION_VIEW, view, rows, samples.image_size[rows])[:, None],
        sizes=(int(view["size"]),),
        view=view,
    )
    mean, largest = anchor_divergence(*_embed_in_both(embedder, job, progress))
    logger.info(
        "The teacher in %s against float32, on %d images of split %s: KL divergence of anchor distributions at T = %g "
        "is %.2g nats in the mean, %.2g at most.",
        embedder.precision, len(rows), name, TEMPERATURE, mean, largest,
    )  # fmt: skip
    return {
        "precision_against_float32": {
            "split": name,
            "images": len(rows),
            "temperature": TEMPERATURE,
            "kl_mean_nats": mean,
            "kl_max_nats": largest,
        }
    }


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Compute float32 convolutions and matrix products of a GPU in float32.

    Both are set by torch's older interface, as everywhere here: one that mixes it with ``fp32_precision`` is refused.
    """
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)


def _embed_in_both(
    embedder: Embedder, job: RenderJob, progress: Progress
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return normalised embeddings (N, D) in float32 and in the embedder's precision."""
    half = embedder._replace(normalise=True)
    single = half._replace(features=None, precision="float32")
    pairs = []
    with progress.track(f"{embedder.precision} against float32", len(job.paths)) as advance:
        for (pixels,) in render(embedder.renderer, job, embedder.batch_size):
            with without_tf32():
                exact = embed_images(single, pixels)
            pairs.append((exact.get(), embed_images(half, pixels).get()))
            advance(len(pixels))
    reference, other = (np.concatenate(each) for each in zip(*pairs, strict=True))
    broken = np.flatnonzero(~np.isfinite(other).all(axis=1))
    if len(broken):
        raise InputError(
            f"The teacher's output for '{job.source.describe(job.paths[broken[0]])}' is not a number in "
            f"{embedder.precision}; use --precision float32, or bfloat16, whose range is as wide."
        )
    return reference, other
