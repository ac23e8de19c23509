"""The numbers that make a view, against torchvision and against a sample-by-sample drawing of them."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp, kstest
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as F

from compress_ssl.pipeline.images.parameters import (
    JITTER_ORDERS,
    evaluation_parameters,
    fresh_parameters,
    random_parameters,
    resized_parameters,
)
from compress_ssl.pipeline.images.policies import POLICIES, Policy
from compress_ssl.storage.parameters import COLUMN, COLUMNS

FULL = Policy(scale=(0.2, 0.9), ratio=(0.6, 1.5), flip=0.3, jitter=0.8, brightness=0.4, contrast=0.3, saturation=0.2,
              hue=0.1, grey=0.2, blur=0.5)  # fmt: skip


def sizes(count: int, low: int = 1, high: int = 600, seed: int = 0) -> npt.NDArray[np.int32]:
    return np.exp(np.random.default_rng(seed).uniform(np.log(low), np.log(high), (count, 2))).astype(np.int32)


def coordinates(width: int, height: int) -> Image.Image:
    """A picture whose red says the column and whose green says the row."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(
        np.stack([columns % 256, rows % 256, columns // 256 * 16 + rows // 256], -1).astype(np.uint8)
    )


@pytest.mark.parametrize(("resize", "size"), [(256, 224), (255, 224), (36, 32), (64, 64), (33, 32)])
def test_evaluation_views_have_the_geometry_of_resize_and_center_crop(resize: int, size: int) -> None:
    few_extreme = np.concatenate([sizes(54, 60, 700), sizes(6, 8, 700)])
    tried = np.concatenate([few_extreme, [[375, 500], [500, 375], [333, 500], [resize, resize], [1, 3], [3, 1]]])
    for (height, width), row in zip(tried, evaluation_parameters(tried.astype(np.int32), resize, size), strict=True):
        value = {name: int(row[number]) for name, number in COLUMN.items()}
        assert (value["crop_left"], value["crop_top"]) == (0, 0)
        assert (value["crop_width"], value["crop_height"]) == (width, height)
        resized = F.resize(Image.new("1", (int(width), int(height))), resize)
        assert (value["resize_width"], value["resize_height"]) == resized.size
        placed = coordinates(*resized.size)
        left, top = value["window_left"], value["window_top"]
        assert F.center_crop(placed, size).tobytes() == placed.crop((left, top, left + size, top + size)).tobytes()
        assert row[COLUMN["flip"] :].tolist() == [0, 1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "policy", [Policy(), FULL, Policy(ratio=(2, 3)), Policy(ratio=(0.1, 0.2)), Policy(scale=(1, 1))]
)
def test_crop_boxes_lie_inside_the_image(policy: Policy) -> None:
    extreme = [[1, 1], [1, 9000], [9000, 1], [2, 9000], [9000, 2], [3, 2], [9000, 9000]]
    tried = np.concatenate([np.array(extreme * 20), sizes(3000, 1, 9000)]).astype(np.int32)
    left, top, width, height = fresh_parameters(policy, 224, 3, 1, tried)[:, :4].T
    assert (np.stack([left, top]) >= 0).all()
    assert (np.stack([width, height]) >= 1).all()
    assert (left + width <= tried[:, 1]).all()
    assert (top + height <= tried[:, 0]).all()


def drawn_one_by_one(
    policy: Policy, size: int, seed: int, view: int, number: int, height: int, width: int
) -> list[float]:
    """One sample's parameters, written as torchvision writes its transforms: a loop, plain Python numbers."""
    bits = np.random.Philox(key=np.array([seed, view], np.uint64), counter=[number * 8, 0, 0, 0])
    draws = np.random.Generator(bits).random(32).tolist()
    x, y, flip, jitter, brightness, contrast, saturation, hue, order, grey, blur, sigma = draws[20:]
    box = None
    for attempt in range(10):
        area = height * width * (policy.scale[0] + (policy.scale[1] - policy.scale[0]) * draws[attempt])
        low, high = math.log(policy.ratio[0]), math.log(policy.ratio[1])
        ratio = math.exp(low + (high - low) * draws[10 + attempt])
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            box = [int(x * (width - w + 1)), int(y * (height - h + 1)), w, h]
            break
    if box is None:
        w, h = width, height
        if width / height < policy.ratio[0]:
            h = round(width / policy.ratio[0])
        elif width / height > policy.ratio[1]:
            w = round(height * policy.ratio[1])
        box = [(width - w) // 2, (height - h) // 2, w, h]
    row = [*box, size, size, 0, 0, float(flip < policy.flip), 1, 1, 1, 0, int(order * 24), float(grey < policy.grey), 0]
    if jitter < policy.jitter:
        row[9] = 1 + policy.brightness * (2 * brightness - 1)
        row[10] = 1 + policy.contrast * (2 * contrast - 1)
        row[11] = 1 + policy.saturation * (2 * saturation - 1)
        row[12] = policy.hue * (2 * hue - 1)
    if blur < policy.blur:
        row[15] = policy.blur_sigma[0] + (policy.blur_sigma[1] - policy.blur_sigma[0]) * sigma
    return row


@pytest.mark.parametrize("policy", [FULL, POLICIES["crop-flip"], POLICIES["moco-v2"]])
def test_the_draw_is_that_of_one_sample_at_a_time(policy: Policy) -> None:
    tried = np.concatenate([sizes(400, 2, 2000), [[2, 500], [500, 2], [10, 400]]]).astype(np.int32)
    together = random_parameters(policy, 96, 11, 4, np.arange(1000, 1000 + len(tried)), tried)
    alone = [drawn_one_by_one(policy, 96, 11, 4, 1000 + row, int(h), int(w)) for row, (h, w) in enumerate(tried)]
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, np.array(alone, np.float32), rtol=1e-6, atol=1e-8)
    geometry = slice(0, COLUMN["brightness"])
    np.testing.assert_array_equal(together[:, geometry], np.array(alone, np.float32)[:, geometry])


def test_any_rows_can_be_drawn_alone() -> None:
    tried = sizes(300)
    everything = fresh_parameters(FULL, 224, 5, 2, tried)
    for first, last in ((0, 1), (1, 2), (17, 230), (299, 300), (40, 40)):
        part = random_parameters(FULL, 224, 5, 2, np.arange(first, last), tried[first:last])
        np.testing.assert_array_equal(part, everything[first:last])


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (60, 400), (400, 60), (33, 33)])
def test_crops_are_distributed_like_those_of_torchvision(height: int, width: int) -> None:
    count = 4000
    policy = Policy()
    drawn_by_us = fresh_parameters(policy, 224, 1, 1, np.full((count, 2), (height, width), np.int32))
    left, top, w, h = drawn_by_us[:, :4].T.astype(np.float64)
    torch.manual_seed(1)
    image = torch.empty(3, height, width)
    drawn = [RandomResizedCrop.get_params(image, list(policy.scale), list(policy.ratio)) for _ in range(count)]
    their_top, their_left, their_h, their_w = np.array(drawn, np.float64).T
    for ours, theirs in (
        (w * h, their_w * their_h),
        (w / h, their_w / their_h),
        (left / np.maximum(width - w, 1), their_left / np.maximum(width - their_w, 1)),
        (top / np.maximum(height - h, 1), their_top / np.maximum(height - their_h, 1)),
    ):
        assert ks_2samp(ours, theirs).pvalue > 0.001


def test_rates_and_ranges_are_those_of_the_policy() -> None:
    count = 20000
    drawn = fresh_parameters(FULL, 224, 9, 1, np.full((count, 2), 300, np.int32))
    column = {name: drawn[:, number].astype(np.float64) for name, number in COLUMN.items()}
    jittered = column["brightness"] != 1
    for rate, expected in (
        (column["flip"].mean(), 0.3),
        (column["grey"].mean(), 0.2),
        ((column["blur_sigma"] > 0).mean(), 0.5),
        (jittered.mean(), 0.8),
    ):
        assert abs(rate - expected) < 4 * math.sqrt(expected * (1 - expected) / count)
    for name, low, width in (
        ("brightness", 0.6, 0.8),
        ("contrast", 0.7, 0.6),
        ("saturation", 0.8, 0.4),
        ("hue", -0.1, 0.2),
    ):
        assert kstest(column[name][jittered], "uniform", (low, width)).pvalue > 0.001
    assert kstest(column["blur_sigma"][column["blur_sigma"] > 0], "uniform", (0.1, 1.9)).pvalue > 0.001
    orders = np.bincount(column["jitter_order"].astype(int))
    assert len(orders) == len(JITTER_ORDERS)
    assert abs(orders - count / 24).max() < 5 * math.sqrt(count / 24)


def test_another_seed_or_view_gives_other_numbers() -> None:
    tried = np.full((50, 2), 300, np.int32)
    first = fresh_parameters(FULL, 224, 1, 1, tried)
    np.testing.assert_array_equal(first, fresh_parameters(FULL, 224, 1, 1, tried))
    for seed, view in ((2, 1), (1, 2), (2**63, 1)):
        other = fresh_parameters(FULL, 224, seed, view, tried)
        assert (other[:, :4] != first[:, :4]).any(axis=1).all()


def test_identity_is_the_largest_centred_square_and_nothing_else() -> None:
    sides = np.array([[32, 32], [31, 31], [40, 32], [32, 41]], np.int32)  # height, width
    drawn = fresh_parameters(POLICIES["identity"], 32, 5, 1, sides)
    assert drawn[:, :4].tolist() == [[0, 0, 32, 32], [0, 0, 31, 31], [0, 4, 32, 32], [4, 0, 32, 32]]
    changing = [COLUMN["jitter_order"]]
    other = fresh_parameters(POLICIES["identity"], 32, 6, 2, sides)
    np.testing.assert_array_equal(np.delete(drawn, changing, axis=1), np.delete(other, changing, axis=1))
    assert not drawn[:, [COLUMN[name] for name in ("flip", "hue", "grey", "blur_sigma")]].any()
    assert (drawn[:, [COLUMN[name] for name in ("brightness", "contrast", "saturation")]] == 1).all()


def test_a_view_of_another_side_has_the_same_crop_and_the_blur_in_proportion() -> None:
    drawn = fresh_parameters(FULL, 224, 5, 1, sizes(50))
    smaller = resized_parameters(drawn, 224, 56)
    sides, blur = [COLUMN["resize_width"], COLUMN["resize_height"]], COLUMN["blur_sigma"]
    assert (smaller[:, sides] == 56).all()
    np.testing.assert_allclose(smaller[:, blur], drawn[:, blur] / 4, rtol=1e-6)
    np.testing.assert_array_equal(np.delete(smaller, [*sides, blur], 1), np.delete(drawn, [*sides, blur], 1))


def test_parameters_of_a_whole_split_are_those_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    some = sizes(100)
    monkeypatch.setattr("compress_ssl.pipeline.images.parameters.SAMPLES_PER_CHUNK", 33)
    np.testing.assert_array_equal(
        fresh_parameters(FULL, 64, 5, 9, some), random_parameters(FULL, 64, 5, 9, np.arange(len(some)), some)
    )


def test_columns_are_what_the_store_names() -> None:
    assert len(COLUMNS) == len(set(COLUMNS)) == fresh_parameters(FULL, 8, 0, 1, sizes(1)).shape[1]
