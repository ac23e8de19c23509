"""Canaries: a few rendered views kept in a store, rendered again later to learn whether pixels still come out the same.

A view is replayed from its parameters, so it is the teacher's view only as long as decoder, renderer and colour
are what they were. Of each split the store keeps 16 views: their parameters, the hash of their pixels, and a
picture of 16 x 16 of those pixels, taken on a grid. Pixels are taken, not averaged: the mean difference of two pictures
is then an estimate of the views' own, while an average over squares would hide a shift or a lost antialiasing.

Letters: N images, V views, P parameters, S side in pixels.
"""

from __future__ import annotations

import base64
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xxhash

from compress_ssl.pipeline.common.device import device_kind, library_versions
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.rendering import RenderJob, interpolation_of, render
from compress_ssl.storage.schema import EVALUATION_VIEW

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from compress_ssl.pipeline.common.settings import Interpolation
    from compress_ssl.pipeline.images.rendering import Renderer
    from compress_ssl.pipeline.images.sources.source import ImageSource
    from compress_ssl.storage import EmbeddingStore, Samples, Split

CANARIES = 16
PICTURE_SIDE = 16
"""Pixels; 1 KiB of base64 a canary, and 4,096 pixels in all to take the mean over."""
MOST_LEVELS = 1.0
"""Mean difference, in levels of 255, above which a student would be shown other images than the teacher."""

logger = logging.getLogger(__name__)


class CanaryView(NamedTuple):
    """One view of one image, and what makes it."""

    row: int
    view: int
    size: int
    """S"""
    parameters: npt.NDArray[np.float32]
    """(P,)"""


def choose_canaries(good: npt.NDArray[np.bool_], view_count: int) -> list[tuple[int, int]]:
    """Choose (row, view) pairs, spread over a split's good rows (N,) and its V views; no pair twice."""
    rows = np.flatnonzero(good)
    count = min(CANARIES, len(rows) * view_count)
    views = [i % view_count if view_count <= count else i * view_count // count for i in range(count)]
    return [(int(rows[i * len(rows) // count]), views[i]) for i in range(count)]


def make_canaries(
    renderer: Renderer,
    source: ImageSource,
    samples: Samples,
    views: Sequence[CanaryView],
    parameters: npt.NDArray[np.float32],
    sizes: tuple[int, ...],
    interpolation: Interpolation,
) -> list[dict[str, Any]]:
    """Render these views as the teacher is shown them, and describe each as a store keeps it.

    The teacher's views come from one decode of the whole image, a student's from a decode of its crop alone: where
    the two are not the same, the check will tell.

    Parameters
    ----------
    views : sequence of CanaryView
        K views.
    parameters : float32 array of shape (K, V, P)
        Of all views of each one's image.
    sizes : tuple of int
        Sides of the V views, in pixels.
    interpolation : str
        Of all views.
    """
    rows = [view.row for view in views]
    job = RenderJob.of(
        source, samples, np.array(rows, np.int64), parameters=parameters, sizes=sizes, interpolation=interpolation
    )
    batch = next(iter(render(renderer, job, max(1, len(views)))), [])  # V tensors (K, S, S, 3)
    images = [batch[view.view][number].clone() for number, view in enumerate(views)]
    return [
        {
            "row": view.row,
            "view": view.view,
            "size": view.size,
            "parameters": view.parameters.tolist(),
            "xxh3_128": pixel_hash(image),
            "picture": base64.b64encode(_picture(image).tobytes()).decode("ascii"),
        }
        for view, image in zip(views, images, strict=True)
    ]


def check_canaries(
    store: EmbeddingStore,
    split_name: str,
    source: ImageSource,
    renderer: Renderer,
    batch_size: int,
    rows: Collection[int] | None = None,
) -> None:
    """Render a split's canaries again, and warn if their pixels are not those that the teacher saw.

    A store without canaries, or whose canaries are the same, says nothing.

    Parameters
    ----------
    store : EmbeddingStore
    split_name : str
    source : ImageSource
        Has the split's images.
    renderer : Renderer
        The one that will replay the views.
    batch_size : int
        The one that the renderer will work with, so that what it builds for it serves again.
    rows : collection of int, optional
        Rows of the split that the source has, where it has not all of them.

    Raises
    ------
    InputError
        If the canaries differ by more than one level of 255 in the mean, or an image is missing or changed.
    """
    canaries = store.attributes.get("canaries", {}).get(split_name, [])
    try:
        if rows is not None:
            canaries = [canary for canary in canaries if canary["row"] in rows]
        views = [_view_of(canary, store[split_name]) for canary in canaries]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(
            f"The canaries of split {split_name} of '{store.path}' cannot be read ({error}); restore a copy, or embed again."
        ) from error
    images = _render(renderer, source, store[split_name], views, batch_size)
    changed = sum(pixel_hash(image) != canary["xxh3_128"] for image, canary in zip(images, canaries, strict=True))
    if not changed:
        return
    mean = float(
        np.mean([_difference(image, canary["picture"]) for image, canary in zip(images, canaries, strict=True)])
    )
    found = (
        f"{changed} of {len(canaries)} canaries of split {split_name} of '{store.path}' come out with other pixels than "
        f"the teacher saw, by {mean:.3f} of 255 levels in the mean ({_then_and_now(store, renderer)})"
    )
    if mean > MOST_LEVELS:
        raise InputError(
            f"{found}; more than {MOST_LEVELS:g} is refused: use the renderer and the versions that the store was "
            "made with, or embed the images again."
        )
    logger.warning("%s; up to %g is let pass.", found, MOST_LEVELS)


def pixel_hash(image: Tensor) -> str:
    """XXH3-128 of an image's bytes (S, S, 3), in hexadecimal."""
    return xxhash.xxh3_128_hexdigest(image.cpu().contiguous().numpy().data)


def _view_of(canary: dict[str, Any], split: Split) -> CanaryView:
    """A canary as a store keeps it; ValueError where it is of no image or view that the store has."""
    row, view, size = (canary[key] for key in ("row", "view", "size"))
    described = split.views[view]["size"] if view in range(len(split.views)) else None
    if row not in range(len(split)) or size != described:
        raise ValueError(f"row {row}, view {view}, size {size}")
    parameters = np.array(canary["parameters"], np.float32)
    if parameters.shape != (len(split.columns),):
        raise ValueError(f"{parameters.size} parameters")
    return CanaryView(row, view, size, parameters)


def _render(
    renderer: Renderer, source: ImageSource, split: Split, views: Sequence[CanaryView], batch_size: int
) -> list[Tensor]:
    """Images (S, S, 3), in the order of the views; a job renders one size."""
    images: dict[int, Tensor] = {}
    for size in sorted({view.size for view in views}):
        chosen = [number for number, view in enumerate(views) if view.size == size]
        rows = [views[number].row for number in chosen]
        job = RenderJob.of(
            source,
            split.samples,
            np.array(rows),
            parameters=np.stack([views[number].parameters for number in chosen])[:, None],
            sizes=(size,),
            interpolation=interpolation_of(split.views[EVALUATION_VIEW]),
        )
        # Copied: what a renderer yields may be memory that it uses again.
        rendered = (image.clone() for (batch,) in render(renderer, job, batch_size) for image in batch)
        images.update(zip(chosen, rendered, strict=True))
    return [images[number] for number in range(len(views))]


def _picture(image: Tensor) -> npt.NDArray[np.uint8]:
    """Pixels of an image (S, S, 3) on a grid of at most 16 x 16."""
    side = min(PICTURE_SIDE, len(image))
    grid = (2 * np.arange(side) + 1) * len(image) // (2 * side)
    pixels: npt.NDArray[np.uint8] = image.cpu().numpy()[np.ix_(grid, grid)]
    return pixels


def _difference(image: Tensor, picture: str) -> float:
    """Mean difference of an image from its stored picture, in levels of 255."""
    now = _picture(image)
    then = np.frombuffer(base64.b64decode(picture), np.uint8).reshape(now.shape)
    return float(np.abs(now.astype(np.int16) - then).mean())


def _then_and_now(store: EmbeddingStore, renderer: Renderer) -> str:
    """What rendered then and what renders now: renderer, device, and the library versions that differ."""
    rendering, old = store.attributes["rendering"], store.attributes["computed_with"]["versions"]
    new = library_versions()
    differing = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    then = _listed(rendering["renderer"], rendering["device_kind"], ((name, old.get(name)) for name in differing))
    now = _listed(renderer.name, device_kind(renderer.device), ((name, new.get(name)) for name in differing))
    return f"then: {then}; now: {now}"


def _listed(renderer: str, device: str, versions: Iterable[tuple[str, str | None]]) -> str:
    return ", ".join([f"{renderer} on {device}", *(f"{name} {version or 'none'}" for name, version in versions)])
