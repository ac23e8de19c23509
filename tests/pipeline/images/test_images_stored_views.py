"""What a store may say of its views: all that is drawn is possible, and what cannot be drawn is named."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from compress_ssl.pipeline.images.parameters import draw_parameters
from compress_ssl.pipeline.images.policies import POLICIES, Policy
from compress_ssl.storage.parameters import COLUMN, COLUMNS, FRACTIONS, ROWS_AT_ONCE, impossible

STRONG = Policy(scale=(0.01, 1), ratio=(0.1, 10), jitter=1, brightness=1, contrast=1, saturation=1, hue=0.5, blur=1)
EVALUATION = {"policy": {"name": "evaluation", "resize": 256}, "seed": None, "size": 224}
CROPS = {"policy": {"name": "ten-crop", "resize": 40}, "seed": None, "size": 32}
SQUASHED = [each | {"policy": {**each["policy"], "squash": True}} for each in (EVALUATION, CROPS)]
RANDOM = [
    {"policy": {"name": str(policy), **policy.model_dump(mode="json")}, "seed": 3, "size": 32}
    for policy in (*POLICIES.values(), STRONG)
]
GOOD = 0


def image_sizes(count: int) -> npt.NDArray[np.int32]:
    """Heights and widths from 1 to 60,000 pixels, and some that are extreme."""
    drawn = np.exp(np.random.default_rng(0).uniform(0, np.log(60_000), (count, 2))).astype(np.int32)
    return np.concatenate([drawn, [[1, 1], [1, 60_000], [60_000, 1], [3, 1], [375, 500]]]).astype(np.int32)


@pytest.mark.parametrize(
    ("view", "description"),
    [
        (0, EVALUATION),
        (0, SQUASHED[0]),
        (1, SQUASHED[1]),
        (9, SQUASHED[1]),
        *((view, CROPS) for view in (1, 4, 5, 10)),
        *((1, each) for each in RANDOM),
    ],
)
def test_all_that_is_drawn_is_possible(view: int, description: dict[str, Any]) -> None:
    sizes = image_sizes(3000)
    parameters = draw_parameters(view, description, np.arange(len(sizes)), sizes)
    assert impossible(parameters, np.full(len(sizes), GOOD, np.uint8), sizes, description) is None


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("value", [1e9, -1e9, np.nan, np.inf, -1.5, 100_000])
def test_what_cannot_be_drawn_is_named_but_for_images_that_are_left_out(column: str, value: float) -> None:
    sizes = np.full((5, 2), 50, np.int32)
    parameters = draw_parameters(1, RANDOM[0], np.arange(len(sizes)), sizes)
    parameters[[2, 4], COLUMN[column]] = value
    bad_image = np.array([GOOD, GOOD, 1, GOOD, GOOD], np.uint8)
    fault = impossible(parameters, bad_image, sizes, RANDOM[0])
    assert fault is not None
    assert fault[0] == 4
    assert column in fault[1] or column.partition("_")[2] in fault[1]
    assert impossible(parameters[:4], bad_image[:4], sizes[:4], RANDOM[0]) is None


def test_a_row_far_down_is_named_by_its_number() -> None:
    row = 2 * ROWS_AT_ONCE + 1
    sizes = np.full((row + 2, 2), 50, np.int32)
    parameters = draw_parameters(1, RANDOM[0], np.arange(len(sizes)), sizes)
    parameters[row, COLUMN["flip"]] = 2
    fault = impossible(parameters, np.full(len(sizes), GOOD, np.uint8), sizes, RANDOM[0])
    assert fault == (row, "has flip = 2, which is not a whole number from 0 to 1")


def test_a_squashed_view_has_no_other_sides_and_another_view_is_not_squashed() -> None:
    sizes = np.full((1, 2), [50, 90], np.int32)
    for description, other in ((EVALUATION, SQUASHED[0]), (SQUASHED[0], EVALUATION)):
        parameters, status = draw_parameters(0, description, 0, sizes), np.zeros(1, np.uint8)
        assert impossible(parameters, status, sizes, description) is None
        squashed = description is not EVALUATION
        assert (impossible(parameters, status, sizes, other) is None) is squashed  # a square fits in what is not
    parameters = draw_parameters(0, SQUASHED[0], 0, sizes)
    for column, value in (("resize_width", 255), ("resize_height", 257), ("window_left", 33)):
        wrong = parameters.copy()
        wrong[0, COLUMN[column]] = value
        fault = impossible(wrong, np.zeros(1, np.uint8), sizes, SQUASHED[0])
        assert fault is not None
        assert column in fault[1] or "window" in fault[1]


@pytest.mark.parametrize("column", sorted({*COLUMNS} - FRACTIONS))
def test_pixels_and_choices_are_whole_numbers(column: str) -> None:
    sizes = np.full((1, 2), 50, np.int32)
    parameters = draw_parameters(0, EVALUATION, np.arange(len(sizes)), sizes)
    parameters[0, COLUMN[column]] += 0.5 if column not in ("crop_width", "crop_height") else -0.5
    assert impossible(parameters, np.zeros(1, np.uint8), sizes, EVALUATION) is not None
