"""What half precision costs a teacher: how far the distributions that students learn are from those of float32.

Letters: N images, D features, B batch.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.rows import evenly_spaced
from compress_ssl.pipeline.embed.block import embed_images
from compress_ssl.pipeline.images.policies import draw_parameters
from compress_ssl.pipeline.images.rendering import RenderJob, interpolation_of, render
from compress_ssl.storage.schema import EVALUATION_VIEW

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.embed.block import Embedder
    from compress_ssl.pipeline.embed.plan import EmbedPlan

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


def measure_precision(worker: Embedder, plan: EmbedPlan, progress: Progress) -> dict[str, Any]:
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
    name = next(iter(plan.splits))
    job = _evaluation_view(plan, name)
    if worker.precision == "float32" or len(job.paths) < 2:
        return {}
    divergence = anchor_divergence(*_embeddings(worker, job, progress))
    logger.info(
        "The teacher in %s against float32, on %d images of split %s: KL divergence of anchor distributions at T = %g is "
        "%.2g nats in the mean, %.2g at most.",
        worker.precision, len(job.paths), name, TEMPERATURE, *divergence,
    )  # fmt: skip
    return {
        "precision_against_float32": {
            "split": name,
            "images": len(job.paths),
            "temperature": TEMPERATURE,
            "kl_mean_nats": divergence.mean,
            "kl_max_nats": divergence.largest,
        }
    }


def _evaluation_view(plan: EmbedPlan, name: str) -> RenderJob:
    """View 0 of at most so many good images of a split, evenly spaced."""
    split = plan.splits[name]
    samples, view = split.samples, split.views[EVALUATION_VIEW]
    rows = evenly_spaced(np.flatnonzero(samples.good), IMAGES)
    return RenderJob.of(
        plan.indexes[name].source,
        samples,
        rows,
        parameters=draw_parameters(EVALUATION_VIEW, view, 0, samples.image_size[rows])[:, None],
        sizes=(int(view["size"]),),
        interpolation=interpolation_of(view),
    )


def _embeddings(
    worker: Embedder, job: RenderJob, progress: Progress
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Normalised embeddings (N, D) in float32 and in the worker's precision."""
    found = []
    with progress.track(f"{worker.precision} against float32", len(job.paths)) as advance:
        for (pixels,) in render(worker.renderer, job, worker.batch_size):
            found.append(_in_both(worker, pixels))
            advance(len(pixels))
    reference, other = (np.concatenate(each) for each in zip(*found, strict=True))
    broken = np.flatnonzero(~np.isfinite(other).all(axis=1))
    if len(broken):
        raise InputError(
            f"The teacher's output for '{job.source.describe(job.paths[broken[0]])}' is not a number in "
            f"{worker.precision}; use --precision float32, or bfloat16, whose range is as wide."
        )
    return reference, other


def _in_both(worker: Embedder, pixels: torch.Tensor) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Those (B, D) of a batch."""
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
