"""The reference renderer: Pillow and the functional transforms of torchvision."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import tee

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from compress_ssl.pipeline.common.device import to_device
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.rendering import RenderJob, read_images
from compress_ssl.storage.parameters import COLUMN


class TorchvisionRenderer:
    """Renders in CPU threads, then moves the result to the device."""

    name = "torchvision"

    def __init__(self, device: torch.device, threads: int) -> None:
        self.device = device
        self._threads = threads

    def geometry(self, batches: Iterable[RenderJob], batch_size: int) -> Iterator[list[Tensor]]:
        """Yield, for each batch in order, V uint8 tensors (B, S, S, 3)."""
        batches, ahead = tee(batches)
        with ThreadPoolExecutor(self._threads) as pool:
            for batch, contents in zip(batches, read_images(ahead, self._threads), strict=True):
                images = list(pool.map(partial(_views, batch), range(len(contents)), contents))
                stacked = [np.stack([views[view] for views in images]) for view in range(len(batch.sizes))]
                yield [to_device(torch.from_numpy(pixels), self.device) for pixels in stacked]


def _views(job: RenderJob, row: int, content: bytes) -> list[npt.NDArray[np.uint8]]:
    """Render the V views of one image."""
    image, mode, views = job.decode(row, content), InterpolationMode(job.interpolation), []
    for parameters, size in zip(job.parameters[row], job.sizes, strict=True):
        value = {name: int(parameters[number]) for name, number in COLUMN.items()}
        right, bottom = value["crop_left"] + value["crop_width"], value["crop_top"] + value["crop_height"]
        if right > image.width or bottom > image.height:  # torchvision would fill it up with black
            raise InputError(
                f"An image of {image.width} x {image.height} pixels is to be cropped up to {right} x {bottom}; its "
                "size in the store is wrong: get the store from whoever made it, or embed again."
            )
        box = F.crop(image, value["crop_top"], value["crop_left"], value["crop_height"], value["crop_width"])
        resized = F.resize(box, [value["resize_height"], value["resize_width"]], mode, antialias=True)
        window = F.crop(resized, value["window_top"], value["window_left"], size, size)
        views.append(np.asarray(F.hflip(window) if value["flip"] else window))
    return views
