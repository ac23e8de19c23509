"""Render views of images: read, decode once, make every view.

Geometry is the renderer's (DALI; torchvision as the reference), colour is ``colour.py``'s for both. Second images of
mixed views are rendered beside the first ones in the same way, and mixed in by ``mixing.py``. Views are uint8 NHWC;
each network normalizes them its own way.

Letters: N images, V views, P parameters, B batch, K mixed images, S side in pixels.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from PIL import Image
from torch import Tensor

from compress_ssl.pipeline.common.errors import InputError, RunError
from compress_ssl.pipeline.common.memory import available_memory, format_bytes
from compress_ssl.pipeline.common.settings import Interpolation
from compress_ssl.pipeline.images.colour import apply_colour
from compress_ssl.pipeline.images.decode import DECODING, decode
from compress_ssl.pipeline.images.mixing import mix, second_rows
from compress_ssl.pipeline.images.sources.source import ImageSource, read_ahead, read_image
from compress_ssl.storage import Samples
from compress_ssl.storage.parameters import COLUMN, COLUMNS, denominators

READ_AHEAD_BATCHES = 4

CERTAINLY_FREE = 2**30  # bytes of a batch for which nobody asks whether they are free

HW_DECODER_LOAD = 0.0
"""Share of a batch that DALI may leave to a GPU's hardware JPEG decoder. None: its pixels may differ from those of the
CUDA decoder, and which images of a batch it takes depends on the batch.
"""


class SecondImages(NamedTuple):
    """What is mixed into some views of a job."""

    views: slice  # of the job, in all of which an image has the same second image
    images: npt.NDArray[np.intp]  # (K,) numbers of the images that are mixed, ascending
    job: RenderJob  # of their second images, in as many views

    def part(self, rows: slice) -> SecondImages:
        """Return what is mixed into some of the images."""
        some = slice(*np.searchsorted(self.images, (rows.start, rows.stop)).tolist())
        return SecondImages(self.views, self.images[some] - rows.start, self.job.part(some))


SecondParameters = Callable[[slice, npt.NDArray[np.intp], npt.NDArray[np.int64]], npt.NDArray[np.float32]]
"""From some views of a job, the numbers of its K mixed images, and the rows of their second images: the parameters of
those, of shape (K, views, P)."""


@dataclass(frozen=True)
class RenderJob:
    """N images and the V views to render of each."""

    source: ImageSource
    paths: Sequence[str]  # N names of images of the source
    content_hash: npt.NDArray[np.uint64]  # (N,) XXH3-64 that each image's bytes must have
    parameters: npt.NDArray[np.float32]  # (N, V, P) augmentation parameters
    sizes: tuple[int, ...]  # V sides, in pixels
    interpolation: Interpolation = "bilinear"  # of all views
    decoding: int = DECODING
    denominators: npt.NDArray[np.integer] | None = None  # (N,) by which images are decoded smaller; None for whole ones
    second: tuple[SecondImages, ...] = ()  # of mixed views

    @classmethod
    def of(
        cls,
        source: ImageSource,
        samples: Samples,
        rows: npt.NDArray[np.integer],
        *,
        parameters: npt.NDArray[np.float32],
        sizes: tuple[int, ...],
        interpolation: Interpolation = "bilinear",
        view: Mapping[str, Any] | None = None,
        second: SecondParameters | None = None,
    ) -> RenderJob:
        """Return the job of rendering V views of N rows of a split.

        Args:
            parameters (float32 array of shape (N, V, P)): Those of the rows.
            view: A store's description of a view, whose interpolation and ways of decoding are taken.
            second: Called for the parameters of the second images, if some of the views are mixed.
        """
        paths = [samples.sample_path[row] for row in rows]
        job = cls(source, paths, samples.content_hash[rows], parameters, sizes, interpolation)
        if view is not None:
            job = replace(
                job,
                interpolation=interpolation_of(view),
                decoding=decoding_of(view),
                denominators=denominators(samples.image_size[rows], view),
            )

        mixed_with = second_rows(parameters)
        if second is None:
            assert (mixed_with < 0).all(), "mixed views need the parameters of their second images"
            return job

        def second_images(views: slice) -> SecondImages:
            images = np.flatnonzero(mixed_with[:, views.start] >= 0)
            others = mixed_with[images, views.start]
            drawn = second(views, images, others)[:, :, : len(COLUMNS)]
            other_job = cls.of(
                source, samples, others, parameters=drawn, sizes=sizes[views], interpolation=interpolation, view=view
            )
            return SecondImages(views, images, other_job)

        alike = (mixed_with == mixed_with[:, :1]).all()  # one view in several sizes: its second images are decoded once
        parts = [slice(0, len(sizes))] if alike else [slice(number, number + 1) for number in range(len(sizes))]
        return replace(job, second=tuple(second_images(part) for part in parts if (mixed_with[:, part] >= 0).any()))

    def batches(self, batch_size: int) -> list[slice]:
        """Return the rows of each batch; the last may be shorter."""
        n = len(self.paths)
        return [slice(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]

    def part(self, rows: slice) -> RenderJob:
        """Return the job of rendering some of the images."""
        return replace(
            self,
            paths=self.paths[rows],
            content_hash=self.content_hash[rows],
            parameters=self.parameters[rows],
            denominators=None if self.denominators is None else self.denominators[rows],
            second=tuple(part for part in (each.part(rows) for each in self.second) if len(part.images)),
        )

    def denominator(self, row: int) -> int:
        """Return by how much an image is decoded smaller."""
        return 1 if self.denominators is None else int(self.denominators[row])

    def read(self, row: int) -> bytes:
        """Return an encoded image.

        Raises:
            InputError: If it is missing, or its hash is another.
        """
        path = self.paths[row]
        content = read_image(self.source, path, "restore it.")
        if xxhash.xxh3_64_intdigest(content) != int(self.content_hash[row]):
            raise InputError(
                f"The image '{self.source.describe(path)}' has changed since it was indexed or embedded; restore it, "
                "or embed the images again."
            )
        return content

    def decode(self, row: int, content: bytes) -> Image.Image:
        """Decode what ``read`` returned with Pillow.

        Raises:
            RunError: If that is impossible, though it was possible when the image was indexed.
        """
        try:
            return decode(content, self.decoding, self.denominator(row))
        except Exception as error:  # Pillow's plugins raise anything on a broken file
            reason = str(error).partition("<")[0].strip() or type(error).__name__
            raise RunError(
                f"The image '{self.source.describe(self.paths[row])}' cannot be decoded ({reason}); replace it, and "
                "embed the images again."
            ) from error


class Renderer(Protocol):
    """Decodes, crops, resizes and flips."""

    name: str
    device: torch.device

    def geometry(self, batches: Iterable[RenderJob], batch_size: int) -> Iterator[list[Tensor]]:
        """Yield, for each batch in order, V uint8 tensors (B, S, S, 3) on ``device``.

        Args:
            batches: Of the same sizes and interpolation; taken some batches ahead of what is yielded.
            batch_size: Largest number of images in one of them.
        """
        ...


def known_second(parameters: npt.NDArray[np.float32]) -> SecondParameters:
    """Return the parameters (N, V, P) of each image's second one as a job takes them; any where there is none."""
    return lambda views, images, _rows: parameters[images][:, views]


def interpolation_of(view: Mapping[str, Any]) -> Interpolation:
    """Return the interpolation of a view from its description; the first stores lack it, and are bilinear."""
    interpolation: Interpolation = view.get("interpolation", "bilinear")
    return interpolation


def decoding_of(view: Mapping[str, Any]) -> int:
    """Return the decoding of a view from its description; it is there only where it makes a difference."""
    return int(view.get("decoding", 1))


def render(renderer: Renderer, job: RenderJob, batch_size: int) -> Iterator[list[Tensor]]:
    """Yield, for each batch of a job in order, its V views as uint8 tensors (B, S, S, 3), colour included.

    Raises:
        InputError: If an image is missing or is not the one that was indexed.
        RunError: If the renderer fails; names the batch's images.
    """
    return render_batches(renderer, map(job.part, job.batches(batch_size)), batch_size)


def render_batches(renderer: Renderer, batches: Iterable[RenderJob], batch_size: int) -> Iterator[list[Tensor]]:
    """Yield the views of each batch as ``render`` does, as one stream: the next batches are read and decoded meanwhile.

    Args:
        batches, batch_size: As of ``Renderer.geometry``.
    """
    batches, ahead = itertools.tee(map(_fitting, batches))
    streams: dict[tuple[int, ...], Iterator[list[Tensor]]] = {}  # of second images, by the sizes of their views
    for batch, geometry in zip(batches, renderer.geometry(ahead, batch_size), strict=True):
        views = _coloured(batch, geometry)
        for second in batch.second:
            sizes = second.job.sizes
            if sizes not in streams:
                from_here = itertools.chain([batch], copy.copy(batches))
                streams[sizes] = renderer.geometry(_second_jobs(from_here, sizes), batch_size)
            pairs = zip(views[second.views], _coloured(second.job, next(streams[sizes])), strict=True)
            parameters = batch.parameters[second.images][:, second.views]
            views[second.views] = [mix(*pair, second.images, parameters[:, view]) for view, pair in enumerate(pairs)]
        yield views
    for stream in streams.values():
        next(stream, None)  # to its end, so that the renderer can use its pipeline again


def _coloured(job: RenderJob, geometry: list[Tensor]) -> list[Tensor]:
    return [apply_colour(pixels, job.parameters[:, view]) for view, pixels in enumerate(geometry)]


def _second_jobs(batches: Iterable[RenderJob], sizes: tuple[int, ...]) -> Iterator[RenderJob]:
    for batch in batches:
        yield from (_fitting(second.job) for second in batch.second if second.job.sizes == sizes)


def _fitting(batch: RenderJob) -> RenderJob:
    """Return a batch, if its images fit in the memory once they are resized; InputError if not."""
    sides = batch.parameters[:, :, [COLUMN["resize_width"], COLUMN["resize_height"]]].astype(np.float64)
    needed = 3 * sides.prod(axis=2).sum()
    if needed > CERTAINLY_FREE and needed > (free := available_memory()):
        raise InputError(
            f"{len(batch.paths)} images of '{batch.source.location}', resized to {sides[..., 0].max():.0f} x "
            f"{sides[..., 1].max():.0f} pixels at most, take {format_bytes(needed)}, and {format_bytes(free)} are "
            "free; lower the batch size or the size of the views."
        )
    return batch


def read_images(
    batches: Iterable[RenderJob], threads: int, prepare: Callable[[RenderJob, int, bytes], bytes] | None = None
) -> Iterator[list[bytes]]:
    """Yield each batch's encoded images after ``prepare(job, row, image)``, read ahead and checked by their hashes."""

    def read(image: tuple[RenderJob, int]) -> bytes:
        batch, row = image
        content = batch.read(row)
        return content if prepare is None else prepare(batch, row, content)

    images = ([(batch, row) for row in range(len(batch.paths))] for batch in batches)
    return read_ahead(images, read, threads=threads, depth=READ_AHEAD_BATCHES)
