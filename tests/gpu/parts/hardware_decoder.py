"""What the product leaves out of DALI, measured: the hardware JPEG decoder, and decoding of regions alone."""

import time
from typing import Any

import numpy as np
import numpy.typing as npt
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from tests.gpu.run import Run

START, SHAPE = np.array([13, 7], np.int32), np.array([61, 45], np.int32)  # of a region: left and top, width and height


def hardware_decoder(run: Run) -> None:
    """Shares of a batch that the hardware decodes: pace, and images that come out otherwise than without it."""
    paths = sorted((run.folder / "photos" / "train").glob("*/*.jpg"))
    images = [np.frombuffer(path.read_bytes(), np.uint8) for path in paths]
    without, _ = decoded(run, images, hw_decoder_load=0.0)
    for load in (0.0, 0.65, 1.0):
        with run.attempt(f"load {load}"):
            found, pace = decoded(run, images, hw_decoder_load=load)
            other = sum(not np.array_equal(a, b) for a, b in zip(found, without, strict=True))
            run.measured(f"load {load}", images_per_second=pace, other_pixels=other, images=len(images))


def regions(run: Run) -> None:
    """Regions against the same pixels of whole images; reported to crash an H100 (NVIDIA/nvImageCodec#55)."""
    paths = sorted((run.folder / "photos" / "train").glob("*/*.jpg"))[:64]
    images = [np.frombuffer(path.read_bytes(), np.uint8) for path in paths]
    whole, _ = decoded(run, images, hw_decoder_load=0.0)
    found, _ = decoded(run, images, region=True, hw_decoder_load=0.0)
    (left, top), (width, height) = START, SHAPE
    pieces = [image[top : top + height, left : left + width] for image in whole]
    other = sum(not np.array_equal(a, b) for a, b in zip(found, pieces, strict=True))
    run.measured("regions", other_pixels=other, images=len(images))


def decoded(
    run: Run, images: list[npt.NDArray[np.uint8]], *, region: bool = False, **options: Any
) -> tuple[list[npt.NDArray[np.uint8]], float]:
    """Return the images as DALI decodes them in batches, and the images per second of the second round."""
    on_gpu, batch = run.device == "cuda", min(128, len(images))
    batches = [images[start : start + batch] for start in range(0, len(images) - batch + 1, batch)]
    pipeline = Pipeline(
        batch_size=batch, num_threads=run.threads, device_id=0 if on_gpu else None, prefetch_queue_depth=2
    )
    options |= {"device": "mixed" if on_gpu else "cpu", "output_type": types.DALIImageType.RGB,
                "jpeg_fancy_upsampling": True, "adjust_orientation": False}  # fmt: skip
    with pipeline:
        encoded = fn.external_source(source=batches, cycle=True, batch=True)
        if region:
            box = {"start": START, "shape": SHAPE, "axis_names": "WH"}
            pipeline.set_outputs(fn.decoders.image_slice(encoded, **box, **options))
        else:
            pipeline.set_outputs(fn.decoders.image(encoded, **options))
    pipeline.build()
    found = []
    for _ in batches:
        (output,) = pipeline.run()
        output = output.as_cpu() if on_gpu else output
        found += [np.array(output.at(number)) for number in range(batch)]
    begun = time.perf_counter()
    for _ in batches:
        pipeline.run()
    return found, len(batches) * batch / (time.perf_counter() - begun)
