"""Colour operations on a batch, with parameters per sample: jitter, grey, blur.

One implementation on the training device, shared by all renderers (DALI's hue is another function:
docs/decisions.md). The arithmetic is torchvision's. A sample's result does not depend on its batch: the mean that
contrast needs is a sum of integers, and the blur adds its taps in a fixed order.

Letters: B batch, S side in pixels. Images are float32 (B, 3, S, S) in 0..255 between operations.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from compress_ssl.pipeline.images.policies import COLUMN, JITTER_ORDERS

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601, as torchvision rounds it
GREY_STEPS = 256  # grey levels are summed exactly, in integer steps of 1/256


def apply_colour(images: Tensor, parameters: npt.NDArray[np.float32]) -> Tensor:
    """Apply jitter, grey and blur to a batch.

    Args:
        images (uint8 tensor of shape (B, S, S, 3))
        parameters (float32 array of shape (B, P)): Columns as in ``policies.COLUMNS``.

    Returns:
        images (uint8 tensor of shape (B, S, S, 3)): Rounded to the nearest level; samples without any of the operations
            are unchanged.
    """
    columns = {name: parameters[:, number] for name, number in COLUMN.items()}
    jittered = np.stack([columns[name] != 1 for name in ("brightness", "contrast", "saturation")]).any(axis=0)
    altered = jittered | (columns["hue"] != 0) | (columns["grey"] != 0) | (columns["blur_sigma"] != 0)
    if not altered.any():
        return images
    rows = np.flatnonzero(altered)
    chosen = {name: values[rows] for name, values in columns.items()}
    selected = torch.from_numpy(rows).to(images.device)
    result = images[selected].permute(0, 3, 1, 2).float()
    result = _jitter(result, chosen)
    result = torch.where(_per_sample(chosen["grey"] != 0, result), _luma(result), result)
    result = _blur(result, chosen["blur_sigma"])
    finished = images.clone()
    finished[selected] = result.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return finished


def _per_sample(values: npt.NDArray[np.generic], like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device).view(-1, 1, 1, 1)


def _jitter(images: Tensor, columns: dict[str, npt.NDArray[np.float32]]) -> Tensor:
    orders = np.array(JITTER_ORDERS)[columns["jitter_order"].astype(np.int64)]  # (B, 4) names
    result = images.clone()
    for position in range(orders.shape[1]):
        for name, operation in OPERATIONS.items():
            neutral = 0 if name == "hue" else 1
            rows = np.flatnonzero((orders[:, position] == name) & (columns[name] != neutral))
            if len(rows):
                selected = torch.from_numpy(rows).to(images.device)
                result[selected] = operation(result[selected], _per_sample(columns[name][rows], images))
    return result


def _luma(images: Tensor) -> Tensor:
    """Return the grey value of each pixel, (B, 1, S, S)."""
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(1)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (factor * images + (1 - factor) * other).clamp(0, 255)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    levels = (_luma(images) * GREY_STEPS).round().to(torch.int64)
    total = levels.sum(dim=(1, 2, 3), keepdim=True).double()
    mean = total / (GREY_STEPS * levels[0].numel())
    return _blend(images, mean.float(), factor)


def _hue(images: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue by ``shift`` turns of the colour circle, through HSV."""
    unit = images / 255
    red, green, blue = unit.unbind(1)
    value, lowest = unit.amax(1), unit.amin(1)
    chroma = value - lowest
    grey = chroma == 0
    divisor = torch.where(grey, torch.ones_like(chroma), chroma)
    saturation = chroma / torch.where(grey, torch.ones_like(value), value)
    to_red, to_green, to_blue = (value - red) / divisor, (value - green) / divisor, (value - blue) / divisor
    sector = torch.where(
        value == red, to_blue - to_green, torch.where(value == green, 2 + to_red - to_blue, 4 + to_green - to_red)
    )
    hue = (sector / 6 + 1 + shift.squeeze(1)) % 1
    six = hue * 6
    number = six.floor()
    part = six - number
    p = (value * (1 - saturation)).clamp(0, 1)
    q = (value * (1 - saturation * part)).clamp(0, 1)
    t = (value * (1 - saturation * (1 - part))).clamp(0, 1)
    choices = torch.stack(
        [
            torch.stack(triple, 1)
            for triple in ((value, t, p), (q, value, p), (p, value, t), (p, q, value), (t, p, value), (value, p, q))
        ]
    )  # (6, B, 3, S, S)
    index = (number.to(torch.int64) % 6)[None, :, None].expand(1, -1, 3, -1, -1)
    return choices.gather(0, index)[0] * 255


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": lambda images, factor: (factor * images).clamp(0, 255),
    "contrast": _contrast,
    "saturation": lambda images, factor: _blend(images, _luma(images), factor),
    "hue": _hue,
}


def blur_kernel_size(side: int) -> int:
    """Return the blur's kernel size for a view of this side: a tenth of it, odd (SimCLR; 23 at 224 pixels)."""
    return 2 * round(side / 20) + 1


def _blur(images: Tensor, sigma: npt.NDArray[np.float32]) -> Tensor:
    rows = np.flatnonzero(sigma)
    if not len(rows):
        return images
    radius = min(blur_kernel_size(images.shape[-1]) // 2, images.shape[-1] - 1)
    taps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (taps / sigma[rows, None].astype(np.float64)) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)  # (rows, taps)
    selected = torch.from_numpy(rows).to(images.device)
    result = images[selected]
    side = images.shape[-1]
    for axis, padding in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
        padded = F.pad(result, padding, mode="reflect")
        result = torch.zeros_like(result)
        for tap in range(len(taps)):
            weight = _per_sample(weights[:, tap].astype(np.float32), images)
            result += weight * padded.narrow(axis, tap, side)
    finished = images.clone()
    finished[selected] = result
    return finished
