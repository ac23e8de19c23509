"""The parameters of views, drawn once from (policy, seed, view, sample).

``compress_ssl.storage.parameters`` has the columns, and the steps by which they make a view.

Randomness is counter-based: Philox keyed by (seed, view) and advanced by sample, so any rows can be drawn
anywhere, in any order, by any number of workers.

Letters: N samples, P = len(COLUMNS) parameters.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from compress_ssl.pipeline.images.policies import CROPS, TEN_CROP, Policy, stored_policy
from compress_ssl.storage.parameters import COLUMN, COLUMNS, decoded_size
from compress_ssl.storage.schema import EVALUATION_VIEW

JITTER_ORDERS = tuple(itertools.permutations(("brightness", "contrast", "saturation", "hue")))  # 24

CROP_ATTEMPTS = 10
DRAWS_PER_SAMPLE = 32  # numbers drawn per sample by every policy; a multiple of 4, the draws of one Philox step
SAMPLES_PER_CHUNK = 65_536  # samples that ``fresh_parameters`` draws at a time


def uniform_draws(
    seed: int, view: int, rows: npt.NDArray[np.integer], draws: int = DRAWS_PER_SAMPLE
) -> npt.NDArray[np.float64]:
    """Return uniform numbers in [0, 1) of shape (N, draws) for some rows of a split.

    Args:
        draws: A multiple of 4. Rows are the counter, in steps of ``draws``: another number of them gives others.
    """
    generator, at = np.random.Philox(key=np.array([seed, view], np.uint64)), 0
    raw = np.empty((len(rows), draws), np.uint64)
    begins = np.flatnonzero(np.diff(rows, prepend=-2) != 1).tolist()  # of consecutive rows, which are drawn at once
    for begin, end in itertools.pairwise([*begins, len(rows)]):
        row = int(rows[begin])
        generator.advance((row - at) * draws // 4)
        raw[begin:end] = generator.random_raw((end - begin) * draws).reshape(-1, draws)
        at = row + end - begin
    return np.asarray((raw >> np.uint64(11)) * 2.0**-53, np.float64)


def evaluation_parameters(
    image_size: npt.NDArray[np.int32], resize: int, size: int, squash: bool = False
) -> npt.NDArray[np.float32]:
    """Return the parameters of torchvision's Resize of the short side to ``resize``, then CenterCrop to ``size``.

    Args:
        image_size (int32 array of shape (N, 2)): Height and width in pixels.
        resize, size: Pixels; ``size`` is at most ``resize``.
        squash: Resize both sides to ``resize``.

    Returns:
        parameters (float32 array of shape (N, P)).
    """
    height, width = image_size[:, 0].astype(np.int64), image_size[:, 1].astype(np.int64)
    short = np.minimum(height, width)
    # torchvision computes int(size * long / short): rounded down.
    resized_width = np.where(squash | (width == short), resize, resize * width // np.maximum(short, 1))
    resized_height = np.where(squash | (height == short), resize, resize * height // np.maximum(short, 1))
    return _table(
        len(image_size),
        crop_width=width,
        crop_height=height,
        resize_width=resized_width,
        resize_height=resized_height,
        # torchvision's CenterCrop rounds halves to even.
        window_left=np.rint((resized_width - size) / 2.0),
        window_top=np.rint((resized_height - size) / 2.0),
    )


def ten_crop_parameters(
    image_size: npt.NDArray[np.int32], resize: int, size: int, crop: int, squash: bool = False
) -> npt.NDArray[np.float32]:
    """Return the parameters of one of the ten crops of the resized image, in the order of torchvision's TenCrop.

    Args:
        image_size (int32 array of shape (N, 2)): Height and width in pixels.
        resize, size: Pixels; ``size`` is at most ``resize``.
        crop: 0 to 4: top left, top right, bottom left, bottom right, centre; 5 to 9: the same of the mirrored image.
        squash: Resize both sides to ``resize``.

    Returns:
        parameters (float32 array of shape (N, P)).
    """
    mirrored, place = divmod(crop, CROPS // 2)
    parameters = evaluation_parameters(image_size, resize, size, squash)
    spare_width, spare_height = parameters[:, [COLUMN["resize_width"], COLUMN["resize_height"]]].T - size
    if place < 4:
        lower, right = divmod(place, 2)
        parameters[:, COLUMN["window_left"]] = right * spare_width
        parameters[:, COLUMN["window_top"]] = lower * spare_height
    if mirrored:  # a window of the mirrored image is the mirror image of a window as far from the other side
        parameters[:, COLUMN["window_left"]] = spare_width - parameters[:, COLUMN["window_left"]]
        parameters[:, COLUMN["flip"]] = 1
    return parameters


def random_parameters(
    policy: Policy, size: int, seed: int, view: int, rows: npt.NDArray[np.integer], image_size: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32]:
    """Draw the parameters of one view, unmixed, for some rows of a split.

    Args:
        size: Side of the view, in pixels.
        seed, view: Key of the generator.
        rows (int array of shape (N,)): In any order; consecutive ones are drawn faster.
        image_size (int32 array of shape (N, 2)): Height and width in pixels of these rows' images.

    Returns:
        parameters (float32 array of shape (N, P)).
    """
    draws = uniform_draws(seed, view, rows)
    left, top, width, height = _crop_boxes(policy, image_size, draws[:, : 2 * CROP_ATTEMPTS + 2])
    others = draws[:, 2 * CROP_ATTEMPTS + 2 :].T
    flip, jitter, brightness, contrast, saturation, hue, order, grey, blur, sigma = others
    jittered = jitter < policy.jitter
    low, high = policy.blur_sigma
    return _table(
        len(image_size),
        crop_left=left,
        crop_top=top,
        crop_width=width,
        crop_height=height,
        resize_width=size,
        resize_height=size,
        flip=flip < policy.flip,
        brightness=np.where(jittered, 1 + policy.brightness * (2 * brightness - 1), 1),
        contrast=np.where(jittered, 1 + policy.contrast * (2 * contrast - 1), 1),
        saturation=np.where(jittered, 1 + policy.saturation * (2 * saturation - 1), 1),
        hue=np.where(jittered, policy.hue * (2 * hue - 1), 0),
        jitter_order=np.floor(order * len(JITTER_ORDERS)),
        grey=grey < policy.grey,
        blur_sigma=np.where(blur < policy.blur, low + (high - low) * sigma, 0),
    )


def draw_parameters(
    view: int, description: Mapping[str, Any], rows: npt.NDArray[np.integer], image_size: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32]:
    """Return a view's parameters (N, P), unmixed, for some rows of a split, from the view's description in a store.

    Args:
        image_size (int32 array of shape (N, 2)): Height and width in pixels of the images, before they are decoded.
    """
    policy, size, image_size = description["policy"], description["size"], decoded_size(image_size, description)
    squash = policy.get("squash", False)
    if view == EVALUATION_VIEW:
        return evaluation_parameters(image_size, policy["resize"], size, squash)
    if policy["name"] == TEN_CROP:
        return ten_crop_parameters(image_size, policy["resize"], size, view - EVALUATION_VIEW - 1, squash)
    return random_parameters(stored_policy(policy), size, description["seed"], view, rows, image_size)


def fresh_parameters(
    policy: Policy, size: int, seed: int, view: int, image_size: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32]:
    """Draw the parameters (N, P) of one view of a whole split, in chunks to bound the memory."""
    chunks = (slice(first, first + SAMPLES_PER_CHUNK) for first in range(0, len(image_size), SAMPLES_PER_CHUNK))
    rows = np.arange(len(image_size))
    return np.concatenate(
        [random_parameters(policy, size, seed, view, rows[chunk], image_size[chunk]) for chunk in chunks]
    )


def resized_parameters(parameters: npt.NDArray[np.float32], size: int, new_size: int) -> npt.NDArray[np.float32]:
    """Return parameters that render views of side ``size`` with side ``new_size``: same crop, proportional blur."""
    resized = parameters.copy()
    pixels = [COLUMN[name] for name in ("resize_width", "resize_height", "window_left", "window_top")]
    resized[:, pixels] = np.floor(resized[:, pixels] * (new_size / size) + 0.5)
    resized[:, COLUMN["blur_sigma"]] *= new_size / size
    return resized


def _table(count: int, **columns: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return parameters (count, P) with these columns; the others leave the image unchanged."""
    parameters = np.zeros((count, len(COLUMNS)), np.float32)
    for name, values in ({"brightness": 1, "contrast": 1, "saturation": 1} | columns).items():
        parameters[:, COLUMN[name]] = values
    return parameters


def _crop_boxes(
    policy: Policy, image_size: npt.NDArray[np.int32], draws: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], ...]:
    """Return left, top, width and height (N,) of crop boxes by the rule of torchvision's RandomResizedCrop.

    The area is uniform in ``scale``, the ratio log-uniform in ``ratio``; the first of ten attempts that fits is taken,
    else the largest centred box with an allowed ratio. ``draws`` are those of all attempts, then left and top.
    """
    area_draws, ratio_draws = draws[:, :CROP_ATTEMPTS], draws[:, CROP_ATTEMPTS : 2 * CROP_ATTEMPTS]
    x, y = draws[:, 2 * CROP_ATTEMPTS :].T
    height, width = image_size[:, 0].astype(np.float64), image_size[:, 1].astype(np.float64)
    low, high = policy.scale
    area = (height * width)[:, None] * (low + (high - low) * area_draws)
    log_low, log_high = np.log(policy.ratio)
    ratio = np.exp(log_low + (log_high - log_low) * ratio_draws)
    attempt_width, attempt_height = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))  # (N, attempts)
    fits_width = (attempt_width > 0) & (attempt_width <= width[:, None])
    fits = fits_width & (attempt_height > 0) & (attempt_height <= height[:, None])
    rows, chosen = np.arange(len(image_size)), fits.argmax(axis=1)
    image_ratio = width / np.maximum(height, 1)
    fallback_width = np.where(image_ratio > policy.ratio[1], np.rint(height * policy.ratio[1]), width)
    fallback_height = np.where(image_ratio < policy.ratio[0], np.rint(width / policy.ratio[0]), height)
    any_fits = fits.any(axis=1)
    box_width = np.where(any_fits, attempt_width[rows, chosen], np.maximum(fallback_width, 1))
    box_height = np.where(any_fits, attempt_height[rows, chosen], np.maximum(fallback_height, 1))
    left = np.where(any_fits, np.floor(x * (width - box_width + 1)), (width - box_width) // 2)
    top = np.where(any_fits, np.floor(y * (height - box_height + 1)), (height - box_height) // 2)
    return left, top, box_width, box_height
