"""Principal components of the teacher's pooled feature maps, fitted once on a sample and kept in the store.

All splits, views and later growths of the store use them.

Letters: C channels of the map, n sampled positions.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.rows import evenly_spaced
from compress_ssl.pipeline.embed.block import render_job
from compress_ssl.pipeline.embed.embedder import Embedder, embed_with_map
from compress_ssl.pipeline.embed.plan import EmbedPlan
from compress_ssl.pipeline.images.mixing import draw_view
from compress_ssl.pipeline.images.rendering import render
from compress_ssl.pipeline.networks.feature_map import pool_map
from compress_ssl.storage.patches import dequantise, quantise
from compress_ssl.storage.schema import EVALUATION_VIEW, PatchPlan, SplitPlan

IMAGES = 1000  # of the sample, in view 0 and view 1
POSITIONS = 100_000  # of the sample at most, which is in memory: with larger grids than 7 x 7 it has fewer images

AT_ONCE = 10_000  # positions in float64

logger = logging.getLogger(__name__)


def fit_patches(embedder: Embedder, plan: EmbedPlan, progress: Progress) -> PatchPlan | None:
    """Fit the components of a plan's patches on a sample of images of its first split, in view 0 and view 1.

    Returns:
        patches: With mean, basis and their figures; None if there are no patches, or no image.

    Raises:
        InputError: If the map of an image is not finite, or an image is missing or has changed.
        RunError: If rendering fails.
    """
    name, split = next(iter(plan.splits.items()))
    if split.patches is None or not split.samples.good.any():
        return None
    count = min(IMAGES, max(1, POSITIONS // (2 * split.patches.positions)))
    rows = evenly_spaced(np.flatnonzero(split.samples.good), count)
    positions = np.concatenate(list(_positions(embedder, plan, name, rows, progress)))  # (n, C)
    mean, basis, share = principal_components(positions, split.patches.components)
    cosine = reconstruction_cosine(positions, mean, basis)
    logger.info(
        "Patches: %d of the map's %d components hold %.1f %% of the variance of %d images of split %s; the cosine of a "
        "position and what is kept of it in 8 bits is %.4f in the mean.",
        len(basis), len(mean), 100 * share, len(rows), name, cosine,
    )  # fmt: skip
    return replace(
        split.patches,
        mean=mean,
        basis=basis,
        explained_variance=share,
        fitted_on=len(rows),
        reconstruction_cosine=cosine,
    )


def with_patches(splits: Mapping[str, SplitPlan], fitted: PatchPlan | None) -> dict[str, SplitPlan]:
    """Return splits with the fitted components, each for the views that it has patches of."""
    return {
        name: replace(split, patches=replace(fitted, views=split.patches.views)) if fitted and split.patches else split
        for name, split in splits.items()
    }


def principal_components(
    positions: npt.NDArray[np.float32], count: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], float]:
    """Return the mean (C,) of positions (n, C), their first principal components (count, C), and the variance's share.

    Computed in float64 from the covariance. The largest entry of each component is positive.
    """
    mean = positions.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((len(mean), len(mean)))
    for start in range(0, len(positions), AT_ONCE):
        centred = positions[start : start + AT_ONCE] - mean
        covariance += centred.T @ centred
    variances, vectors = np.linalg.eigh(covariance)  # ascending
    basis = vectors.T[: -count - 1 : -1]
    largest = np.take_along_axis(basis, np.abs(basis).argmax(axis=1)[:, None], axis=1)
    total = variances.sum()
    share = float(np.clip(variances[-count:].sum() / total, 0, 1)) if total > 0 else 1.0
    return mean.astype(np.float32), (basis * np.sign(largest)).astype(np.float32), share


def reconstruction_cosine(
    positions: npt.NDArray[np.float32], mean: npt.NDArray[np.float32], basis: npt.NDArray[np.float32]
) -> float:
    """Return the mean cosine of positions (n, C) and of what their 8-bit components give."""
    cosines = np.empty(len(positions))
    for start in range(0, len(positions), AT_ONCE):
        exact = positions[start : start + AT_ONCE]
        components = ((exact - mean) @ basis.T).astype(np.float32, copy=False)
        kept = mean + dequantise(*quantise(components)) @ basis
        lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(kept, axis=1)
        cosines[start : start + AT_ONCE] = (exact * kept).sum(axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)
    return float(np.clip(cosines.mean(), -1, 1))


def _positions(
    embedder: Embedder, plan: EmbedPlan, name: str, rows: npt.NDArray[np.int64], progress: Progress
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the pooled positions (n, C) of some images of a split in view 0 and view 1, batch by batch."""
    split = plan.splits[name]
    assert split.patches is not None
    views = [view for view in split.patches.views if view <= EVALUATION_VIEW + 1]
    parameters = {view: draw_view(split, view, rows) for view in views}
    job = render_job(split, plan.indexes[name].source, rows, parameters)
    with progress.track("fit patches", len(rows)) as advance:
        for pixels in render(embedder.renderer, job, embedder.batch_size):
            for images in pixels:
                pooled = pool_map(embed_with_map(embedder, images)[1], split.patches.grid)
                positions: npt.NDArray[np.float32] = pooled.flatten(0, 1).cpu().numpy()
                if not np.isfinite(positions).all():
                    raise InputError(
                        f"The teacher's feature map is not finite in {embedder.precision}; use --precision float32, or "
                        "bfloat16, whose range is as wide."
                    )
                yield positions
            advance(len(pixels[0]))
