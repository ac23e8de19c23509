"""Colour operations on a batch, with parameters per sample: jitter, grey, blur.

One implementation on the training device, shared by all renderers (DALI's hue is another function:
docs/decisions.md). The arithmetic is torchvision's. A sample's result does not depend on its batch: the mean that
contrast needs is a sum of integers, and the blur adds its taps in a fixed order, each product rounded before it is
added (a convolution, which does not round it, gives other last bits).

The host plans the steps of a batch. All their rows and amounts then go to the device in one copy, so that a GPU never
waits for the host.

Letters: B batch, M altered samples, K samples of one step, S side in pixels. Between steps images are float32
(M, 3, S, S) in 0..255.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from compress_ssl.pipeline.common.device import to_device
from compress_ssl.pipeline.images.parameters import JITTER_ORDERS
from compress_ssl.storage.parameters import COLUMN

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601, as torchvision rounds it
GREY_STEPS = 256  # grey levels are summed exactly, in integer steps of 1/256

NEUTRAL = {"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0, "grey": 0, "blur_sigma": 0}
"""The value of each column that leaves an image unchanged."""

BLENDS = ("brightness", "contrast", "saturation")
MOST_BLENDS = len(BLENDS)


class _Step(NamedTuple):
    operation: Callable[[Tensor, Tensor], Tensor]  # of images (K, 3, S, S), which it may overwrite, and amounts
    rows: npt.NDArray[np.int64]  # (K,) among the M
    amounts: npt.NDArray[np.float32]  # (K,), or the blur's weights (K, taps)


def apply_colour(images: Tensor, parameters: npt.NDArray[np.float32]) -> Tensor:
    """Apply jitter, grey and blur to a batch.

    Args:
        images (uint8 tensor of shape (B, S, S, 3))
        parameters (float32 array of shape (B, P)): Columns as in ``storage.parameters.COLUMNS``.

    Returns:
        images (uint8 tensor of shape (B, S, S, 3)): Rounded to the nearest level; samples without any of the operations
            are unchanged.
    """
    altered = np.any([parameters[:, COLUMN[name]] != neutral for name, neutral in NEUTRAL.items()], axis=0)
    if not altered.any():
        return images
    chosen = np.flatnonzero(altered)
    steps = _plan(parameters[chosen], images.shape[1])
    indices = [chosen, *(step.rows for step in steps)]
    (selected, *rows), amounts = _as_tensors(indices, [step.amounts for step in steps], images.device)
    result = images.index_select(0, selected).permute(0, 3, 1, 2)
    result = result.to(torch.float32, memory_format=torch.contiguous_format)
    for step, its_rows, its_amounts in zip(steps, rows, amounts, strict=True):
        result.index_copy_(0, its_rows, step.operation(result.index_select(0, its_rows), its_amounts))
    levels = result.round_().clamp_(0, 255).to(torch.uint8)
    return images.index_copy(0, selected, levels.permute(0, 2, 3, 1))


def _plan(parameters: npt.NDArray[np.float32], side: int) -> list[_Step]:
    """Return the steps of M samples, without those of no sample.

    Hue is shifted in one step for all samples, in the middle. Before it and after it are as many steps as a sample may
    have other operations there; one step does the first of them for all samples, whichever it is, and so on.
    """
    column = {name: parameters[:, number] for name, number in COLUMN.items()}
    altered = {name: column[name] != neutral for name, neutral in NEUTRAL.items()}
    steps = []
    for names in _JITTER_STEPS[column["jitter_order"].astype(np.int64)].T:
        groups = [np.flatnonzero((names == name) & altered[name]) for name in BLENDS]
        factors = [column[name][rows] for name, rows in zip(BLENDS, groups, strict=True)]
        blend = partial(_blend, brightness=len(groups[0]), contrast=len(groups[1]))
        steps.append(_Step(blend, np.concatenate(groups), np.concatenate(factors)))
    hue, grey, blur = (np.flatnonzero(altered[name]) for name in ("hue", "grey", "blur_sigma"))
    steps.insert(MOST_BLENDS, _Step(_hue, hue, column["hue"][hue]))
    steps.append(_Step(_grey, grey, column["grey"][grey]))
    steps.append(_Step(_blur, blur, _blur_weights(column["blur_sigma"][blur], side)))
    return [step for step in steps if len(step.rows)]


def _blends_around_hue(order: tuple[str, ...]) -> list[str]:
    """Return the operations of a jitter's steps before hue, then those after it; empty where it has fewer."""
    place = order.index("hue")
    before, after = order[:place], order[place + 1 :]
    return [*before, *[""] * (MOST_BLENDS - len(before)), *after, *[""] * (MOST_BLENDS - len(after))]


_JITTER_STEPS = np.array([_blends_around_hue(order) for order in JITTER_ORDERS])  # (24, 6) names


def _as_tensors(
    indices: Sequence[npt.NDArray[np.int64]], amounts: Sequence[npt.NDArray[np.float32]], device: torch.device
) -> tuple[list[Tensor], list[Tensor]]:
    """Return int64 and float32 arrays as tensors on a device, copied there in one piece."""
    arrays: list[npt.NDArray[Any]] = [*indices, *amounts]  # the wider ones first, so that all are aligned
    packed = torch.from_numpy(np.concatenate([array.reshape(-1).view(np.uint8) for array in arrays]))
    parts = torch.split(to_device(packed, device), [array.nbytes for array in arrays])
    rows = [part.view(torch.int64) for part in parts[: len(indices)]]
    shaped = zip(parts[len(indices) :], amounts, strict=True)
    return rows, [part.view(torch.float32).view(array.shape) for part, array in shaped]


def _luma(images: Tensor) -> Tensor:
    """Return the grey value of each pixel, (K, 1, S, S)."""
    red, green, blue = torch.split(images, 1, dim=1)
    return (LUMA[0] * red).add_(LUMA[1] * green).add_(LUMA[2] * blue)


def _blend(images: Tensor, factors: Tensor, *, brightness: int, contrast: int) -> Tensor:
    """Blend images with black, then with their mean grey value, the rest with their grey values.

    Args:
        brightness, contrast: How many images of the first two kinds there are.
    """
    factor = factors.view(-1, 1, 1, 1)
    mixed = images[brightness:]
    if len(mixed):
        other = _luma(mixed)
        if contrast:
            other[:contrast] = _mean(other[:contrast])
        other *= 1 - factor[brightness:]
    images *= factor
    if len(mixed):
        mixed += other
    return images.clamp_(0, 255)


def _mean(luma: Tensor) -> Tensor:
    """Return the mean of each image's grey values (K, 1, S, S), (K, 1, 1, 1); float64 adds integers exactly."""
    total = (luma * GREY_STEPS).round_().sum(dim=(1, 2, 3), keepdim=True, dtype=torch.float64)
    return (total / (GREY_STEPS * luma[0].numel())).float()


def _hue(images: Tensor, shifts: Tensor) -> Tensor:
    """Shift the hue by ``shifts`` turns of the colour circle, through HSV."""
    unit = images.div_(255)
    red, green, blue = torch.split(unit, 1, dim=1)
    value, lowest = unit.amax(1, keepdim=True), unit.amin(1, keepdim=True)  # (K, 1, S, S)
    is_red, is_green = value == red, value == green
    chroma = value - lowest
    grey = chroma == 0
    saturation = chroma / value.masked_fill(grey, 1)
    torch.sub(value, unit, out=unit)
    unit /= chroma.masked_fill_(grey, 1)  # the distance of each channel to the highest, in units of the chroma
    sector = torch.where(is_red, blue - green, torch.where(is_green, 2 + red - blue, 4 + green - red))
    six = sector.div_(6).add_(1).add_(shifts.view(-1, 1, 1, 1)).remainder_(1).mul_(6)
    number = six.floor()
    part = six.sub_(number)
    part = torch.where(number % 2 == 0, 1 - part, part)
    lowest = value * (1 - saturation)
    middle = value * (1 - saturation * part)
    # A channel is highest in the two sectors around its own hue and lowest in the two opposite ones.
    from_cyan, from_green, from_blue = ((number - centre).abs_() for centre in (2.5, 1.5, 3.5))
    torch.where(from_cyan > 2, value, torch.where(from_cyan < 1, lowest, middle), out=red)
    torch.where(from_green < 1, value, torch.where(from_green > 2, lowest, middle), out=green)
    torch.where(from_blue < 1, value, torch.where(from_blue > 2, lowest, middle), out=blue)
    return unit.mul_(255)


def _grey(images: Tensor, _ones: Tensor) -> Tensor:
    return _luma(images).expand_as(images)


def blur_kernel_size(side: int) -> int:
    """Return the blur's kernel size for a view of this side: a tenth of it, odd (SimCLR; 23 at 224 pixels)."""
    return 2 * round(side / 20) + 1


def _blur_weights(sigma: npt.NDArray[np.float32], side: int) -> npt.NDArray[np.float32]:
    """Return the Gaussian's weights (K, taps); a reflection needs fewer taps on a side than the side has pixels."""
    radius = min(blur_kernel_size(side) // 2, side - 1)
    taps = np.arange(-radius, radius + 1)
    values = np.exp(-0.5 * (taps / sigma[:, None].astype(np.float64)) ** 2)
    weights: npt.NDArray[np.float32] = (values / values.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights


def _blur(images: Tensor, weights: Tensor) -> Tensor:
    first, *others = weights.view(*weights.shape, 1, 1, 1).unbind(1)
    side, radius = images.shape[-1], weights.shape[1] // 2
    product = torch.empty_like(images)
    for axis, padding in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
        padded = F.pad(images, padding, mode="reflect")
        torch.mul(padded.narrow(axis, 0, side), first, out=images)
        for tap, weight in enumerate(others, 1):
            images += torch.mul(padded.narrow(axis, tap, side), weight, out=product)
    return images
