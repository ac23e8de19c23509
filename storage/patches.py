"""Compact patches: 8-bit codes of a position's components, with one scale for all of them.

A map of the teacher, pooled to G x G, is about ``mean + dequantise(codes, scale) @ basis``. The projection to K
principal components loses the variance that ``explained_variance`` lacks to 1; a code is off by at most half a scale,
1/254 of the position's largest component.

Letters: N samples, K components, C channels.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from compress_ssl.storage.schema import PatchPlan
from compress_ssl.storage.values import NOT_FINITE, Fault

MAX_CODE = 127  # -128 is not used, so that a value and its negative have opposite codes

ORTHONORMAL = 1e-3  # most that a product of two rows of a basis may differ from 0 or 1

Patches = tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]  # codes (..., K) and scale (...)


def quantise(values: npt.NDArray[np.float32]) -> Patches:
    """Return the codes (..., K) and the scale (...) of values (..., K): those are about codes * scale.

    The scale is the largest magnitude divided by 127, rounded up to float16, so that no value is clipped. It is not
    finite, and the codes are 0, if a value is not finite or too large for float16.
    """
    exact = np.abs(values).max(axis=-1) / MAX_CODE
    with np.errstate(over="ignore"):
        scale = exact.astype(np.float16)
        scale = np.where(scale < exact, np.nextafter(scale, np.float16(np.inf)), scale)
    divisor = scale.astype(np.float32)[..., None]
    codes = np.zeros_like(values, np.float32)
    np.divide(values, divisor, out=codes, where=np.isfinite(divisor) & (divisor > 0))
    return np.rint(codes, out=codes).astype(np.int8), scale


def dequantise(codes: npt.NDArray[np.int8], scale: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """Return the values (..., K) of codes (..., K) and scale (...): codes * scale."""
    return codes * scale.astype(np.float32)[..., None]


def wrong_patches(codes: npt.NDArray[np.int8], scale: npt.NDArray[np.float16], good: npt.NDArray[np.bool_]) -> Fault:
    """Check patches of N samples, codes (N, G*G, K) and scale (N, G*G); those of good samples (N,) must be possible.

    Returns:
        fault: The first row that is wrong, and what is wrong with it; None if there is none.
    """
    is_wrong = {
        "has patches with a scale that is not finite or below 0": wrong_scale(scale).any(axis=1),
        f"has patches with the code {-MAX_CODE - 1}": (codes < -MAX_CODE).any(axis=(1, 2)),
    }
    for what, wrong in is_wrong.items():
        if len(rows := np.flatnonzero(wrong & good)):
            return int(rows[0]), what
    return None


def wrong_scale(scale: npt.NDArray[np.float16]) -> npt.NDArray[np.bool_]:
    """Return where a scale is negative, infinite or NaN."""
    is_wrong: npt.NDArray[np.bool_] = scale.view(np.uint16) >= NOT_FINITE
    return is_wrong


def wrong_basis(mean: npt.NDArray[np.float32], basis: npt.NDArray[np.float32]) -> str:
    """Return what is wrong with the mean (C,) and the basis (K, C) of patches, with orthonormal rows; or nothing."""
    if len(basis) > basis.shape[1]:
        return f"has {len(basis)} components of {basis.shape[1]} channels"
    if not (np.isfinite(mean).all() and np.isfinite(basis).all()):
        return "is not finite"
    with np.errstate(over="ignore", invalid="ignore"):
        products: npt.NDArray[Any] = basis @ basis.T
    is_orthonormal = np.abs(products - np.eye(len(basis), dtype=np.float32)).max() <= ORTHONORMAL
    return "" if is_orthonormal else "has rows that are not orthonormal"


def wrong_plan(plan: PatchPlan) -> str:
    """Return what is wrong with the basis of patches that are to be written; or nothing."""
    measured = (plan.explained_variance, plan.reconstruction_cosine)
    if not (0 <= measured[0] <= 1 and -1 <= measured[1] <= 1):
        return f"has an explained variance of {measured[0]:g} and a reconstruction cosine of {measured[1]:g}"
    shapes, wanted = (plan.mean.shape, plan.basis.shape), ((plan.channels,), (plan.components, plan.channels))
    if shapes != wanted:
        return f"has the shapes {shapes[0]} and {shapes[1]} instead of {wanted[0]} and {wanted[1]}"
    return wrong_basis(plan.mean, plan.basis)
