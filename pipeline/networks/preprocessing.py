"""Preprocessing of the images of a network."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, FiniteFloat
from torch import Tensor

from compress_ssl.pipeline.common.settings import Interpolation
from compress_ssl.storage.attributes import MAX_PIXELS
from compress_ssl.storage.typed_json import FileModel


@dataclass(frozen=True)
class Preprocessing:
    """Normalization and evaluation sizes; the defaults are those of ImageNet."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # per channel, for values in [0, 1]
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    size: int = 224  # side of the network's input, in pixels
    resize: int = 256  # short side before the centre crop of the evaluation view, in pixels
    interpolation: Interpolation = "bilinear"  # of every resize; always antialiased
    squash: bool = False  # resize both sides before that crop, not only the short one

    def normalize(self, images: Tensor) -> Tensor:
        """Convert uint8 images (B, S, S, 3) to normalized float32 (B, 3, S, S) in channels_last memory format."""
        levels = images.float().flatten(2)  # over whole rows of pixels: torch is slow where a loop has three channels
        mean, std = (_for_levels(values, images.shape[2], images.device) for values in (self.mean, self.std))
        normalized = (levels - mean) / std
        return normalized.reshape(images.shape).permute(0, 3, 1, 2)


def _for_levels(values: tuple[float, float, float], width: int, device: torch.device) -> Tensor:
    """Return the values of the channels for a row of pixels (width * 3,), for levels of 0 to 255.

    They are filled on the device: copying them to a GPU would make the host wait.
    """
    return 255 * torch.cat([torch.full((1,), value, device=device) for value in values]).repeat(width)


Rgb = tuple[FiniteFloat, FiniteFloat, FiniteFloat]


class PreprocessingRecord(FileModel, extra="forbid"):  # what is not known would not be done
    """``Preprocessing`` as a file, or a user's function, gives it; it is checked."""

    size: Annotated[int, Field(ge=1, le=MAX_PIXELS)]
    resize: Annotated[int, Field(ge=1, le=MAX_PIXELS)]
    mean: Rgb
    std: Rgb
    interpolation: Interpolation = "bilinear"  # the first files lack it
    squash: bool = False  # there only if it is true
