"""Checks of values: every float16 there is."""

import numpy as np

from compress_ssl.storage.values import NOT_FINITE, is_finite, largest_bits, not_finite

EVERY = np.arange(2**16, dtype=np.uint16).view(np.float16)


def test_bits_of_the_largest_magnitude_say_what_is_finite() -> None:
    bits = largest_bits(EVERY[:, None])
    np.testing.assert_array_equal(bits < NOT_FINITE, np.isfinite(EVERY))
    assert [is_finite(EVERY[row : row + 1]) for row in range(0, 2**16, 97)] == np.isfinite(EVERY[::97]).tolist()


def test_larger_magnitudes_have_larger_bits() -> None:
    finite = EVERY[np.isfinite(EVERY)]
    rows = np.random.default_rng(0).choice(finite, (1000, 7))
    np.testing.assert_array_equal(
        largest_bits(rows), np.abs(rows).max(axis=1).view(np.uint16)
    )  # of positive numbers the bits grow with the number


def test_first_row_of_a_good_image_that_is_not_finite_is_found() -> None:
    embeddings = np.ones((5, 3), np.float16)
    embeddings[[1, 3, 4], [0, 2, 1]] = [np.nan, -np.inf, np.inf]
    assert not_finite(embeddings, np.array([True, False, True, True, True])) == (
        3,
        "has an embedding that is not finite",
    )
    assert not_finite(embeddings, np.array([True, False, True, False, False])) is None
