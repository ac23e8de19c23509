"""What half precision costs a teacher: how far the distributions that students learn are from those of float32.

Letters: N images, D features, B batch.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from pipeline.embed.block import embed_images
from pipeline.embed.plan import draw_parameters
from pipeline.errors import InputError
from pipeline.images.rendering import RenderJob, interpolation_of, render
from storage.schema import EVALUATION_VIEW

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from pipeline.embed.block import Worker
    from pipeline.embed.plan import EmbedPlan
    from pipeline.progress import Progress

IMAGES = 1000
TEMPERATURE = 0.04
"""CompRess's (Koohpayegani et al. 2020, section 4)."""

logger = logging.getLogger(__name__)


class AnchorDivergence(NamedTuple):
    """KL divergence, in nats, over the images."""

    mean: float
    largest: float


def anchor_divergence(
    reference: npt.NDArray[np.floating], other: npt.NDArray[np.floating], temperature: float = TEMPERATURE
) -> AnchorDivergence:
    """KL(reference || other) of each image's distribution over all other images as its anchors.

    Parameters
    ----------
    reference, other : float arrays of shape (N, D)
        L2-normalised embeddings of the same images, N at least 2.
    temperature : float
        Divides the similarities.

    Returns
    -------
    divergence : AnchorDivergence
        CompRess (Koohpayegani et al. 2020), equations 1 and 2, with the queries' own images left out.
    """
    p, q = (_log_distributions(torch.from_numpy(each).double(), temperature) for each in (reference, other))
    divergences = (p.exp() * (p - q)).sum(dim=1)  # (N,)
    return AnchorDivergence(float(divergences.mean()), float(divergences.max()))


def _log_distributions(embeddings: torch.Tensor, temperature: float) -> torch.Tensor:
    """Logarithms (N, N - 1) of every row's softmax over the other rows."""
    n = len(embeddings)
    logits = embeddings @ embeddings.T / temperature
    return torch.log_softmax(logits[~torch.eye(n, dtype=torch.bool)].view(n, n - 1), dim=1)


def measure_precision(worker: Worker, plan: EmbedPlan, progress: Progress) -> dict[str, Any]:
    """Compare the worker's precision with float32 on images of the first split, and say what was found.

    Returns
    -------
    attributes : dict
        For the store; empty in float32, and where there are fewer than two good images.

    Raises
    ------
    InputError
        If an output is not a number in this precision, or an image is missing or has changed.
    """
    name, split = next(iter(plan.splits.items()))
    good = np.flatnonzero(split.samples.good)
    count = min(IMAGES, len(good))
    if worker.precision == "float32" or count < 2:
        return {}
    rows = good[np.arange(count) * len(good) // count]
    view = split.views[EVALUATION_VIEW]
    job = RenderJob(
        source=plan.indexes[name].source,
        paths=[split.samples.sample_path[row] for row in rows],
        content_hash=split.samples.content_hash[rows],
        parameters=draw_parameters(EVALUATION_VIEW, view, 0, split.samples.image_size[rows])[:, None],
        sizes=(int(view["size"]),),
        interpolation=interpolation_of(view),
    )
    with progress.track(f"{worker.precision} against float32", count) as advance:
        embeddings = []
        for (pixels,) in render(worker.renderer, job, worker.batch_size):
            embeddings.append(_in_both(worker, pixels))
            advance(len(pixels))
    reference, other = (np.concatenate(each) for each in zip(*embeddings, strict=True))  # (N, D)
    broken = np.flatnonzero(~np.isfinite(other).all(axis=1))
    if len(broken):
        raise InputError(
            f"The teacher's output for '{job.source.describe(job.paths[broken[0]])}' is not a number in "
            f"{worker.precision}; use --precision float32, or bfloat16, whose range is as wide."
        )
    divergence = anchor_divergence(reference, other)
    logger.info(
        "The teacher in %s against float32, on %d images of split %s: KL divergence of anchor distributions at T = %g is "
        "%.2g nats in the mean, %.2g at most.",
        worker.precision, count, name, TEMPERATURE, *divergence,
    )  # fmt: skip
    return {
        "precision_against_float32": {
            "split": name,
            "images": count,
            "temperature": TEMPERATURE,
            "kl_mean_nats": divergence.mean,
            "kl_max_nats": divergence.largest,
        }
    }


def _in_both(worker: Worker, pixels: torch.Tensor) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Normalised embeddings (B, D) in float32 and in the worker's precision."""
    with _without_tf32():
        reference = embed_images(worker._replace(precision="float32", normalise=True), pixels)
    return reference, embed_images(worker._replace(normalise=True), pixels)


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """Let convolutions on a GPU be of float32 throughout: torch's default there is TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
