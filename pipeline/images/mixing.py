"""Mixup and CutMix: with which image a stored view is mixed, and the pixels of both together.

The second image is another row of the split, in geometry and colour of its own parameters of the same view. Inside a
box, given in 256ths of the view's side, the pixels are the mean of both images, weighted in 256ths. Mixup's box is the
whole view (Zhang et al. 2018, section 1, at alpha = 1, where the share of the first image is uniform). CutMix's first
image has no share in its box (Yun et al. 2019, equations 1 and 2; clovaai/CutMix-PyTorch, ``rand_bbox`` in train.py at
5ee7b8d4d953, for a view of 256 pixels). Teachers' outputs of such views were first stored by Faghri et al. 2023
(apple/ml-dr, ``dr/transforms.py`` at a21113c779, with the same alpha).

Letters: N samples, P parameters, B batch, K mixed images, S side in pixels.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compress_ssl.pipeline.common.device import to_device
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.parameters import draw_parameters, uniform_draws
from compress_ssl.pipeline.images.policies import MixingPolicy, stored_policy
from compress_ssl.storage import Split, SplitPlan
from compress_ssl.storage.attributes import is_mixed
from compress_ssl.storage.parameters import COLUMNS, MIX_COLUMN, MIX_UNIT

MIXING_STREAM = 2**63  # added to the view in the generator's key; the numbers of the plain view stay what they are
MIXING_DRAWS = 8  # numbers drawn per sample, of which five are used; a multiple of 4

IMAGES_AT_ONCE = 8  # mixed in one step, so that a CPU's caches hold them

UNMIXED = np.array([-1, MIX_UNIT, 0, 0, 0, 0], np.float32)  # values of MIX_COLUMNS


def draw_view(split: Split | SplitPlan, view: int, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """Draw the parameters (N, P) of a view of some rows of a split, in all columns that the split has.

    Raises:
        InputError: If views are mixed and there is only one good image.
    """
    description, samples = split.views[view], split.samples
    plain = draw_parameters(view, description, rows, samples.image_size[rows])
    if split.columns == COLUMNS:
        return plain
    mixing = np.tile(UNMIXED, (len(rows), 1))
    if is_mixed(description):
        policy = stored_policy(description["policy"])
        assert isinstance(policy, MixingPolicy)
        mixing = draw_mixing(policy, description["seed"], view, rows, samples.good)
    return np.hstack([plain, mixing])


def draw_mixing(
    policy: MixingPolicy, seed: int, view: int, rows: npt.NDArray[np.integer], good: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Draw the values of ``MIX_COLUMNS`` (N, 6) of some rows of a split.

    The second image is uniform among the other good ones. A draw that would leave the first image as it is, and a bad
    image, is not mixed.

    Args:
        good (bool array): Which rows of the split are good.

    Raises:
        InputError: If there are fewer than two good images.
    """
    candidates = np.flatnonzero(good)
    if len(candidates) < 2:
        raise InputError(f"Mixing needs two good images in a split, and there is {len(candidates)}; add more images.")
    kind, other, first_share, x, y = uniform_draws(seed, view + MIXING_STREAM, rows, MIXING_DRAWS)[:, :5].T
    number = np.floor(other * (len(candidates) - 1)).astype(np.int64)
    number += number >= np.searchsorted(candidates, rows)  # not the image itself
    is_mixup = kind < policy.mixup
    share = np.where(is_mixup, np.rint(MIX_UNIT * first_share), 0)
    half = np.where(is_mixup, MIX_UNIT, np.floor(MIX_UNIT * np.sqrt(1 - first_share)) // 2)
    edges = (np.clip(np.floor(MIX_UNIT * each) + side * half, 0, MIX_UNIT) for side in (-1, 1) for each in (x, y))
    left, top, right, bottom = edges
    drawn = np.stack([candidates[number], share, left, top, right - left, bottom - top], axis=1)
    is_mixed = good[rows] & (kind < policy.mixup + policy.cutmix) & (share < MIX_UNIT) & (half > 0)
    return np.where(is_mixed[:, None], drawn, UNMIXED).astype(np.float32)


def second_rows(parameters: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the rows of second images (...), from parameters (..., P); -1 where images are not mixed."""
    if parameters.shape[-1] <= len(COLUMNS):
        return np.full(parameters.shape[:-1], -1)
    return parameters[..., MIX_COLUMN["mix_row"]].astype(np.int64)


def mix(first: Tensor, second: Tensor, chosen: npt.NDArray[np.integer], parameters: npt.NDArray[np.float32]) -> Tensor:
    """Mix some images of a batch with their second images; in integers, so that every device gives the same pixels.

    Args:
        first (uint8 tensor of shape (B, S, S, 3)): It is left as it is.
        second (uint8 tensor of shape (K, S, S, 3)): The second images.
        chosen (int array of shape (K,)): The images to mix.
        parameters (float32 array of shape (K, P)): Theirs.

    Returns:
        images (uint8 tensor of shape (B, S, S, 3)).
    """
    side = first.shape[1]
    share, left, top, width, height = parameters[:, MIX_COLUMN["mix_share"] :].astype(np.int64).T
    edges = [(edge * side + MIX_UNIT // 2) // MIX_UNIT for edge in (left, left + width, top, top + height)]
    values = torch.from_numpy(np.stack([chosen, share, *edges])[:, :, None])
    rows, shares, left_edge, right_edge, top_edge, bottom_edge = to_device(values, first.device)  # (K, 1) each
    place = torch.arange(side, device=first.device)
    across = ((place >= left_edge) & (place < right_edge)).repeat_interleave(3, dim=1)  # (K, 3S), of all colours
    down = (place >= top_edge) & (place < bottom_edge)  # (K, S)
    images, shares = first.clone(), shares.to(torch.int16)
    for start in range(0, len(second), IMAGES_AT_ONCE):
        part = slice(start, start + IMAGES_AT_ONCE)
        inside = down[part, :, None] & across[part, None, :]
        weight = torch.where(inside, shares[part, :, None], MIX_UNIT)  # outside the first image is whole
        # 16 bits hold the sum, unsigned, so its high byte is right whatever sign torch sees.
        total = first.index_select(0, rows[part, 0]).flatten(2).to(torch.int16).mul_(weight)
        total.add_((MIX_UNIT - weight).mul_(second[part].flatten(2).to(torch.int16))).add_(MIX_UNIT // 2)
        mixed = total.view(torch.uint8).view(*second[part].shape, 2)[..., 1]
        images.index_copy_(0, rows[part, 0], mixed)
    return images
