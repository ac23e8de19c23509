"""The default renderer: NVIDIA DALI, on the CPU or the GPU.

Images and parameters are fed through ``fn.external_source``, so the order is ours and the pipeline keeps no state. An
image is decoded once for all its views. On the CPU a single view has only its crop box decoded, which gives the same
pixels; on a GPU the whole image always is, because nvImageCodec 0.9 may crash there on a part of a JPEG
(https://github.com/NVIDIA/nvImageCodec/issues/55). JPEGs go to DALI unchanged. Whatever DALI reads differently, not at
all, or more strictly than Pillow (other formats, some CMYK, JPEGs with junk between their segments), and what is
decoded smaller, is decoded by Pillow as ImageFolder would, and passed as raw pixels in a PPM.

A batch stays valid after the next runs of its pipeline: torch's tensors share DALI's buffers, and DALI takes one back
from a GPU only after waiting for all the GPU's work (its dynamic executor, the default, and ``dltensor.h``).
``Pipeline.run`` returns when the batch is finished, and DLPack makes torch's current stream wait for it all the same.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from compress_ssl.pipeline.common.errors import RunError
from compress_ssl.pipeline.common.settings import Interpolation
from compress_ssl.pipeline.common.torch_errors import is_out_of_memory
from compress_ssl.pipeline.images.rendering import HW_DECODER_LOAD, RenderJob, read_images
from compress_ssl.storage.parameters import COLUMN

# The arguments of one view, in the order in which they are fed: columns, and the dtype that DALI expects.
VIEW_ARGUMENTS: tuple[tuple[int | list[int], type[np.generic]], ...] = (
    ([COLUMN["crop_left"], COLUMN["crop_top"]], np.int32),
    ([COLUMN["crop_width"], COLUMN["crop_height"]], np.int32),
    ([COLUMN["resize_height"], COLUMN["resize_width"]], np.float32),
    ([COLUMN["window_left"], COLUMN["window_top"]], np.int32),
    (COLUMN["flip"], np.int32),
)

INTERPOLATIONS: dict[Interpolation, types.DALIInterpType] = {
    "bilinear": types.DALIInterpType.INTERP_LINEAR,
    "bicubic": types.DALIInterpType.INTERP_CUBIC,
}

_Key = tuple[int, tuple[int, ...], Interpolation]
"""Batch size, sizes of the views, interpolation: what a pipeline is built for."""

PREFETCH_BATCHES = 2

GPU_PIPELINE_THREADS = 32
"""Maximum threads of a pipeline on a GPU: its decoder keeps 16 MiB of the GPU's memory and 16 MiB of pinned
memory for each. DALI's authors find 3 to 5 enough as a rule (https://github.com/NVIDIA/DALI/issues/4912).
"""

IDLE_PIPELINES = 4  # kept to be used again

PATHS_NAMED = 8  # paths listed in an error message

JPEG_MAGIC = b"\xff\xd8\xff"
FIRST_MARKER, START_OF_SCAN, APP14, FRAMES = 0xC0, 0xDA, 0xEE, frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
MAX_HEADER_BYTES = 10  # of a frame, up to its number of colours; no scan is shorter


class DaliRenderer:
    """Renders with DALI; pipelines are built for (batch size, view sizes, interpolation) and reused."""

    name = "dali"

    def __init__(self, device: torch.device, threads: int) -> None:
        self.device = device
        self._threads = threads
        self._idle: list[tuple[_Key, Pipeline, _Feed]] = []  # the one that has been idle for longest first

    def geometry(self, batches: Iterable[RenderJob], batch_size: int) -> Iterator[list[Tensor]]:
        """Yield, for each batch in order, V uint8 tensors (B, S, S, 3) on the renderer's device.

        Raises:
            InputError: If an image is missing or is not the one that was indexed.
            RunError: If DALI fails; names the images that it may be. If memory is full, DALI's error passes unchanged.
        """
        batches, fed = itertools.tee(batches)
        first = next(batches, None)
        if first is None:
            return
        key = (batch_size, first.sizes, first.interpolation)
        # Not reused after a stream that fails or is left halfway, whose prefetched batches are still in the pipeline.
        number = next((number for number, (of, _, _) in enumerate(self._idle) if of == key), None)
        pipeline, feed = self._build(*key) if number is None else self._idle.pop(number)[1:]
        # Closed here, since its threads must not end wherever the garbage collector finds a pipeline left halfway.
        with contextlib.closing(_inputs(fed, self._threads)) as feed.batches:
            for batch in itertools.chain([first], batches):
                try:
                    outputs = pipeline.run()
                except RuntimeError as error:
                    if is_out_of_memory(error):
                        raise
                    # DALI prefetches, so the failing image may be a few batches ahead.
                    raise _failure(error, [batch, *itertools.islice(batches, PREFETCH_BATCHES)]) from error
                yield [from_dlpack(output.as_tensor()) for output in outputs]
            try:
                pipeline.run()  # to the end of the feed, so that the pipeline can be used again
            except StopIteration:
                pipeline.reset()  # type: ignore[no-untyped-call]
        self._idle.append((key, pipeline, feed))
        del self._idle[:-IDLE_PIPELINES]

    def _build(self, batch_size: int, sizes: tuple[int, ...], interpolation: Interpolation) -> tuple[Pipeline, _Feed]:
        on_gpu = self.device.type == "cuda"
        options: dict[str, Any] = {
            "device": "mixed" if on_gpu else "cpu",
            "output_type": types.DALIImageType.RGB,
            "jpeg_fancy_upsampling": True,  # on the CPU, equals Pillow's decoding exactly
            "hw_decoder_load": HW_DECODER_LOAD,
            "adjust_orientation": False,  # ImageFolder ignores EXIF
        }
        feed = _Feed()
        pipeline = Pipeline(  # type: ignore[no-untyped-call]
            batch_size=batch_size,
            num_threads=min(self._threads, GPU_PIPELINE_THREADS) if on_gpu else self._threads,
            device_id=(self.device.index or 0) if on_gpu else None,
            prefetch_queue_depth=PREFETCH_BATCHES,
        )
        with pipeline:
            count = len(VIEW_ARGUMENTS)
            encoded, *arguments = fn.external_source(source=feed, num_outputs=1 + count * len(sizes), batch=True)
            only_box = len(sizes) == 1 and not on_gpu
            decoded = None if only_box else fn.decoders.image(encoded, **options)
            views = []
            for view, size in enumerate(sizes):
                start, shape, resize, window, flip = arguments[view * count : (view + 1) * count]
                box: DataNode
                if decoded is None:
                    box = fn.decoders.image_slice(encoded, start=start, shape=shape, axis_names="WH", **options)
                else:
                    box = fn.slice(decoded, start=start, shape=shape, axis_names="WH")
                resized = fn.resize(box, size=resize, antialias=True, interp_type=INTERPOLATIONS[interpolation])
                # arg-type: a single input gives a single output
                cut = fn.slice(resized, start=window, shape=(size, size), axis_names="WH")  # type: ignore[arg-type]
                views.append(fn.flip(cut, horizontal=flip))
            pipeline.set_outputs(*views)  # type: ignore[no-untyped-call]
        pipeline.build()  # type: ignore[no-untyped-call]
        return pipeline, feed


def _failure(error: RuntimeError, batches: Iterable[RenderJob]) -> RunError:
    """Return DALI's error with the names of the images that it cannot decode, or of all if it can decode each alone."""
    suspects = [(batch, row) for batch in batches for row in range(len(batch.paths))]
    found = [(batch, row) for batch, row in suspects if _is_refused(_for_dali(batch, row, batch.read(row)))]
    paths = [batch.source.describe(batch.paths[row]) for batch, row in found or suspects]
    named = ", ".join(f"'{path}'" for path in paths[:PATHS_NAMED])
    if len(paths) > PATHS_NAMED:
        named += f" and {len(paths) - PATHS_NAMED} more"
    # DALI's reason, without the tracebacks around it.
    reason = (str(error).partition("encountered:")[2] or str(error)).strip().partition("\n")[0].rstrip(" :")
    where = "" if found else "one of these images: "
    return RunError(f"DALI failed on {where}{named} ({reason}); leave it out, or use --renderer torchvision.")


def _is_refused(encoded: bytes) -> bool:
    """Return true if DALI cannot decode an image alone."""
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)  # type: ignore[no-untyped-call]
    with pipeline:
        images = fn.external_source(source=[[np.frombuffer(encoded, np.uint8)]])
        pipeline.set_outputs(fn.decoders.image(images, device="cpu"))  # type: ignore[no-untyped-call]
    pipeline.build()  # type: ignore[no-untyped-call]
    try:
        pipeline.run()
    except RuntimeError:
        return True
    return False


class _Feed:
    """Source of the pipeline's inputs, called once per batch: encoded images, then the arguments of every view."""

    batches: Iterator[tuple[Any, ...]] = iter(())

    def __call__(self) -> tuple[Any, ...]:
        return next(self.batches)


def _inputs(batches: Iterable[RenderJob], threads: int) -> Generator[tuple[Any, ...]]:
    batches, ahead = itertools.tee(batches)
    for batch, encoded in zip(batches, read_images(ahead, threads, _for_dali), strict=True):
        arguments = [
            batch.parameters[:, view, columns].astype(dtype, order="C")
            for view in range(len(batch.sizes))
            for columns, dtype in VIEW_ARGUMENTS
        ]
        yield ([np.frombuffer(content, np.uint8) for content in encoded], *arguments)


def _for_dali(job: RenderJob, row: int, content: bytes) -> bytes:
    if job.denominator(row) == 1 and content.startswith(JPEG_MAGIC) and _is_read_alike(content, job.decoding):
        return content
    buffer = io.BytesIO()
    job.decode(row, content).save(buffer, "PPM")
    return buffer.getvalue()


def _is_read_alike(jpeg: bytes, decoding: int) -> bool:
    """Return true if DALI reads a JPEG as Pillow does: without junk, and in four colours with Adobe's marker alone."""
    at, in_four_colours, is_adobes = 2, False, False
    while jpeg[at : at + 1] == b"\xff" and at + MAX_HEADER_BYTES <= len(jpeg):
        marker, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4])
        if marker == 0xFF:  # fills
            at += 1
        elif marker == START_OF_SCAN:
            return is_adobes or not in_four_colours or decoding == 1
        elif marker < FIRST_MARKER or length < 2:
            return False
        else:
            in_four_colours |= marker in FRAMES and jpeg[at + 9] == 4
            is_adobes |= marker == APP14 and jpeg[at + 4 : at + 9] == b"Adobe"
            at += 2 + length
    return False
