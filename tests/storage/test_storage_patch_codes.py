"""Codes of patches and their scales against a naive loop."""

from typing import Any

import numpy as np
import pytest

from compress_ssl.storage.patches import dequantise, quantise
from tests.storage.conftest import patches_of

Array = np.ndarray[Any, Any]

HALVES = (
    np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
)  # every finite float16 from 0, ascending


def naive(values: Array) -> tuple[list[int], float]:
    """Codes and scale of K values by their definition, in float64: the least float16 of which 127 reach the largest."""
    largest = max(abs(float(value)) for value in values)
    scale = float(HALVES[np.searchsorted(HALVES, np.float32(largest) / np.float32(127))])
    return [round(float(value) / scale) if scale else 0 for value in values], scale


@pytest.mark.parametrize("magnitude", [1e-9, 1e-4, 0.3, 1.0, 40.0, 65504.0 * 127])
def test_codes_and_scale_are_those_of_a_naive_loop(magnitude: float) -> None:
    values = (np.random.default_rng(3).normal(size=(50, 16)).clip(-1, 1) * magnitude).astype(np.float32)
    codes, scale = quantise(values)
    assert (codes.dtype, scale.dtype) == (np.int8, np.float16)
    for row, row_codes, row_scale in zip(values, codes, scale, strict=True):
        wanted, wanted_scale = naive(row)
        assert float(row_scale) == wanted_scale
        assert np.abs(row_codes - np.array(wanted)).max() <= 1  # ties of the float32 quotient
        error = np.abs(row_codes.astype(np.float64) * float(row_scale) - row.astype(np.float64))
        assert error.max() <= float(row_scale) * 0.5001


def test_no_value_is_clipped() -> None:
    values = np.random.default_rng(4).uniform(-300, 300, (20_000, 2)).astype(np.float32)
    codes, scale = quantise(values)
    assert np.abs(codes.astype(int)).max() == 127
    assert (scale.astype(np.float64) * 127 >= np.abs(values).max(axis=1) * (1 - 1e-7)).all()


def test_zeros_have_scale_zero_and_come_back() -> None:
    codes, scale = quantise(np.zeros((2, 3, 4), np.float32))
    assert (codes == 0).all()
    assert (scale == 0).all()
    assert (dequantise(codes, scale) == 0).all()


def test_dequantised_values_are_codes_times_scale() -> None:
    codes, scale = patches_of(1, slice(0, 22))
    values = dequantise(codes, scale)
    assert (values.dtype, values.shape) == (np.float32, (22, 4, 3))
    for index in np.ndindex(values.shape):
        assert values[index] == int(codes[index]) * float(scale[index[:-1]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e9])
def test_value_that_no_scale_holds_gives_no_finite_scale_and_codes_of_zero(value: float) -> None:
    codes, scale = quantise(np.array([[1, value, 2], [1, 2, 3]], np.float32))
    assert np.isfinite(scale).tolist() == [False, True]
    assert codes.tolist() == [[0, 0, 0], [42, 85, 127]]
