"""Decode an image with Pillow, nearly as torchvision's ImageFolder does."""

import io
import warnings
from enum import IntEnum

import numpy as np
from PIL import Image

DECODING = 2
"""How a file becomes RGB; a store records it where it makes a difference.

1, of the first stores: a 16-bit grey above 255 is white, and a CMYK JPEG without Adobe's marker is inverted by DALI.
2: of 16 bits the high byte is taken, and those JPEGs are Pillow's.
"""

# Warnings of odd EXIF blocks and palettes do not concern the pixels. Set once, since filters are shared by all threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Kind(IntEnum):
    """What an image needs besides being read: most need nothing."""

    PLAIN = 0
    SIXTEEN_BITS = 1
    UNMARKED_CMYK = 2  # a JPEG in four colours without Adobe's marker
    CUT_OFF = 3  # numbers of 32 bits, of which 0 to 255 are kept
    DARK_SIXTEEN_BITS = 4  # of 12 bits or fewer, in a file of 16: nearly black


DECODED_ANEW = (Kind.SIXTEEN_BITS, Kind.DARK_SIXTEEN_BITS, Kind.UNMARKED_CMYK)
"""What ``DECODING`` 1 and 2 make different pixels of."""


def decode(content: bytes, decoding: int = DECODING, denominator: int = 1) -> Image.Image:
    """Decode an image: RGB, first frame, EXIF rotation ignored.

    Of 16-bit greys, which ImageFolder makes white, the high byte is taken, as Pillow does for 16-bit colours.

    Args:
        denominator: 1, 2 or 4 for an image of so much smaller sides, rounded up. A JPEG is decoded smaller, from the
            low frequencies of its blocks, which is quicker; others are averaged over squares.
    """
    image, _ = decode_with_kind(content, decoding, denominator)
    return image


def decode_with_kind(content: bytes, decoding: int = DECODING, denominator: int = 1) -> tuple[Image.Image, Kind]:
    """Decode an image as ``decode`` does, and return its kind too."""
    with Image.open(io.BytesIO(content)) as image:
        whole = image.size
        if denominator > 1:
            image.draft(None, (whole[0] // denominator, whole[1] // denominator))
        decoded, kind = _to_rgb(image, decoding)
        return decoded if denominator == 1 or decoded.size != whole else decoded.reduce(denominator), kind


def _to_rgb(image: Image.Image, decoding: int) -> tuple[Image.Image, Kind]:
    kind = _kind_of(image)
    if kind == Kind.SIXTEEN_BITS and decoding > 1:
        values = np.asarray(image)
        if values.max() < 2**12:
            kind = Kind.DARK_SIXTEEN_BITS
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB"), kind
    return image.convert("RGB"), kind


def _kind_of(image: Image.Image) -> Kind:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Kind.SIXTEEN_BITS
    if image.mode in ("I", "F"):
        return Kind.CUT_OFF
    unmarked = image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info
    return Kind.UNMARKED_CMYK if unmarked else Kind.PLAIN
