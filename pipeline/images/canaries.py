"""Canaries: a few rendered views kept in a store, rendered again later to check that the pixels are still the same.

A view is replayed from its parameters, so it is the teacher's view only as long as decoder, renderer and colour
operations stay the same. The store keeps 16 views of each split: their parameters (of a mixed view those of its second
image too), the hash of their pixels, and a picture of 16 x 16 of those pixels, taken on a grid. Pixels are taken, not
averaged: the mean difference of two pictures then estimates that of the views, while averages over squares would hide a
shift or missing antialiasing.

Letters: N images, V views, P parameters, K canaries, S side in pixels.
"""

import base64
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from torch import Tensor

from compress_ssl.pipeline.common.device import device_kind, library_versions
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.mixing import second_rows
from compress_ssl.pipeline.images.rendering import Renderer, RenderJob, known_second, render
from compress_ssl.pipeline.images.sources.source import ImageSource
from compress_ssl.pipeline.images.stored_views import check_views
from compress_ssl.storage import EmbeddingStore, Split
from compress_ssl.storage.parameters import COLUMNS, impossible
from compress_ssl.storage.schema import EVALUATION_VIEW

CANARIES = 16
PICTURE_SIDE = 16  # Pixels; a canary takes 1 KiB of base64, and the mean is over 4,096 pixels in all
MAX_MEAN_DIFFERENCE = 1.0  # levels of 255; above it a student would be shown other images than the teacher

logger = logging.getLogger(__name__)


def choose_canaries(good: npt.NDArray[np.bool_], view_count: int) -> list[tuple[int, int]]:
    """Choose distinct pairs (row, view), spread over a split's good rows (N,) and its V views."""
    rows = np.flatnonzero(good)
    count = min(CANARIES, len(rows) * view_count)
    views = [i % view_count if view_count <= count else i * view_count // count for i in range(count)]
    return [(int(rows[i * len(rows) // count]), views[i]) for i in range(count)]


def make_canaries(renderer: Renderer, job: RenderJob, chosen: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Render the chosen views as the teacher sees them, and return each as a store keeps it.

    The teacher's views come from one decode of the whole image, on the CPU a student's from a decode of its crop alone:
    if the two differ, the later check reports it.

    Args:
        job: All V views of each canary's image.
        chosen (sequence of (int, int)): Row and view of each of the K canaries.
    """
    batch = next(iter(render(renderer, job, max(1, len(chosen)))), [])  # V tensors (K, S, S, 3)
    second = {
        (image, view): parameters[view - each.views.start].tolist()
        for each in job.second
        for image, parameters in zip(each.images.tolist(), each.job.parameters, strict=True)
        for view in range(each.views.start, each.views.stop)
    }
    canaries = []
    for number, (row, view) in enumerate(chosen):
        image = batch[view][number].clone()
        canaries.append(
            {
                "row": row,
                "view": view,
                "size": job.sizes[view],
                "parameters": job.parameters[number, view].tolist(),
                **({"second_parameters": second[number, view]} if (number, view) in second else {}),
                "xxh3_128": pixel_hash(image),
                "picture": base64.b64encode(_picture(image).tobytes()).decode("ascii"),
            }
        )
    return canaries


def check_canaries(
    store: EmbeddingStore,
    split_name: str,
    source: ImageSource,
    renderer: Renderer,
    batch_size: int,
    rows: npt.NDArray[np.int64] | None = None,
) -> None:
    """Render a split's canaries again, and log a warning if their pixels are not those that the teacher saw.

    A store without canaries passes.

    Args:
        renderer, batch_size: Those of the replay to come, so that the renderer can use what it builds here again.
        rows (int64 array): Rows of the split that the source has, if not all.

    Raises:
        InputError: If the canaries differ by more than one level of 255 in the mean, or an image is missing or changed.
    """
    split = store[split_name]
    canaries = [
        canary for canary in stored_canaries(store, split_name) if rows is None or np.isin(_rows_of(canary), rows).all()
    ]
    if canaries:
        check_views(split)
    images = _render(renderer, source, split, canaries, batch_size)
    changed = sum(pixel_hash(image) != canary["xxh3_128"] for image, canary in zip(images, canaries, strict=True))
    if not changed:
        return
    differences = []  # of each canary, the mean over its picture
    for image, canary in zip(images, canaries, strict=True):
        now = _picture(image)
        then = np.frombuffer(base64.b64decode(canary["picture"]), np.uint8).reshape(now.shape)
        differences.append(np.abs(now.astype(np.int16) - then).mean())
    mean = float(np.mean(differences))
    found = (
        f"{changed} of {len(canaries)} canaries of split {split_name} of '{store.path}' are rendered with other pixels "
        f"than the teacher saw, by {mean:.3f} of 255 levels in the mean ({_then_and_now(store, renderer)})"
    )
    if mean > MAX_MEAN_DIFFERENCE:
        raise InputError(
            f"{found}; more than {MAX_MEAN_DIFFERENCE:g} is refused: use the renderer and the versions that the store "
            "was made with, or embed the images again."
        )
    logger.warning("%s; up to %g is accepted.", found, MAX_MEAN_DIFFERENCE)


def stored_canaries(store: EmbeddingStore, split_name: str) -> list[dict[str, Any]]:
    """Return the canaries of a split.

    Raises:
        InputError: If one is not of an image and a view of the split.
    """
    canaries: list[dict[str, Any]] = store.attributes.get("canaries", {}).get(split_name, [])
    try:
        for canary in canaries:
            _check_stored(canary, store[split_name])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(
            f"The canaries of split {split_name} of '{store.path}' cannot be read ({error}); restore a copy, or embed "
            "again."
        ) from error
    return canaries


def pixel_hash(image: Tensor) -> str:
    """Return the XXH3-128 of an image's bytes (S, S, 3), in hexadecimal."""
    return xxhash.xxh3_128_hexdigest(image.cpu().contiguous().numpy().data)


def _check_stored(canary: dict[str, Any], split: Split) -> None:
    """Check a canary of a store; ValueError if the split has no such image or view."""
    row, view, size = (canary[key] for key in ("row", "view", "size"))
    described = split.views[view]["size"] if view in range(len(split.views)) else None
    if row not in range(len(split)) or size != described:
        raise ValueError(f"row {row}, view {view}, size {size}")
    _check_parameters(canary["parameters"], split, view, row, split.columns)
    for second in _rows_of(canary)[1:]:
        if second >= len(split):
            raise ValueError(f"row {second}")
        _check_parameters(canary["second_parameters"], split, view, second, COLUMNS)


def _check_parameters(given: Any, split: Split, view: int, row: int, columns: Sequence[str]) -> None:
    """Check the parameters of a row's view that a canary gives; ValueError if they are impossible."""
    parameters, samples = np.array(given, np.float32), split.samples
    if parameters.shape != (len(columns),):
        raise ValueError(f"{parameters.size} parameters")
    status, image_size = samples.status[[row]], samples.image_size[[row]]
    all_good = None if columns == COLUMNS else samples.good
    if fault := impossible(parameters[None], status, image_size, split.views[view], all_good):
        raise ValueError(f"row {row} {fault[1]}")


def _rows_of(canary: Mapping[str, Any]) -> list[int]:
    """Return the row of a canary's image, and of the one mixed into it if there is one."""
    second = second_rows(np.array([canary["parameters"]], np.float32))
    return [canary["row"], *second[second >= 0].tolist()]


def _render(
    renderer: Renderer, source: ImageSource, split: Split, canaries: Sequence[dict[str, Any]], batch_size: int
) -> list[Tensor]:
    """Return images (S, S, 3) in the order of the canaries; one job renders one size."""
    images: dict[int, Tensor] = {}
    for size in sorted({canary["size"] for canary in canaries}):
        chosen = [number for number, canary in enumerate(canaries) if canary["size"] == size]
        second = [canaries[number].get("second_parameters", [np.nan] * len(COLUMNS)) for number in chosen]
        job = RenderJob.of(
            source,
            split.samples,
            np.array([canaries[number]["row"] for number in chosen]),
            parameters=np.array([[canaries[number]["parameters"]] for number in chosen], np.float32),
            sizes=(size,),
            view=split.views[EVALUATION_VIEW],
            second=known_second(np.array(second, np.float32)[:, None]),
        )
        # Cloned, since a renderer may reuse the memory that it yields.
        rendered = (image.clone() for (batch,) in render(renderer, job, batch_size) for image in batch)
        images.update(zip(chosen, rendered, strict=True))
    return [images[number] for number in range(len(canaries))]


def _picture(image: Tensor) -> npt.NDArray[np.uint8]:
    """Return the pixels of an image (S, S, 3) on a grid of at most 16 x 16."""
    side = min(PICTURE_SIDE, len(image))
    grid = (2 * np.arange(side) + 1) * len(image) // (2 * side)
    pixels: npt.NDArray[np.uint8] = image.cpu().numpy()[np.ix_(grid, grid)]
    return pixels


def _then_and_now(store: EmbeddingStore, renderer: Renderer) -> str:
    """Describe what rendered then and now: renderer, device, and the library versions that differ."""
    old, new = store.attributes["computed_with"]["versions"], library_versions()
    differing = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]

    def described(name: str, device: str, versions: Mapping[str, str]) -> str:
        libraries = (f"{library} {versions.get(library, 'none')}" for library in differing)
        return ", ".join([f"{name} on {device}", *libraries])

    rendering = store.attributes["rendering"]
    then = described(rendering["renderer"], rendering["device_kind"], old)
    return f"then: {then}; now: {described(renderer.name, device_kind(renderer.device), new)}"
