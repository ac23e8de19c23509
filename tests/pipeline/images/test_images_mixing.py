"""Mixed views: how they are drawn, and their pixels against a loop over them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import xxhash
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.mixing import MIXING_STREAM, UNMIXED, draw_mixing, mix
from compress_ssl.pipeline.images.parameters import fresh_parameters, random_parameters, uniform_draws
from compress_ssl.pipeline.images.policies import (
    POLICIES,
    STORED_POLICIES,
    MixingPolicy,
    Policy,
    PolicySetting,
    StoredPolicySetting,
)
from compress_ssl.storage.errors import StoreError
from compress_ssl.storage.parameters import COLUMNS, MIX_COLUMN, MIX_COLUMNS, check_row_numbers, impossible

MIXUP, CUTMIX = MixingPolicy(mixup=1), MixingPolicy(cutmix=1)
N = 4000
ROW, SHARE, LEFT, TOP, WIDTH, HEIGHT = range(6)


def drawn(policy: MixingPolicy, good: npt.NDArray[np.bool_], seed: int = 3, view: int = 1) -> npt.NDArray[np.float32]:
    return draw_mixing(policy, seed, view, np.arange(len(good)), good)


def test_plain_views_are_drawn_as_before_there_was_mixing() -> None:
    """XXH3-64 of the parameters that the release before drew."""
    sizes = np.stack([np.arange(20, 220), np.arange(300, 100, -1)], axis=1).astype(np.int32)
    before = {"identity": "161a13f9784d23cb", "crop-flip": "ee155815467f9682", "moco-v2": "0432eb2b9d66e36b"}
    for name, digest in before.items():
        assert xxhash.xxh3_64_hexdigest(fresh_parameters(POLICIES[name], 32, 7, 3, sizes).tobytes()) == digest
    mixed = fresh_parameters(STORED_POLICIES["crop-flip+mixup"], 32, 7, 3, sizes)
    assert xxhash.xxh3_64_hexdigest(mixed.tobytes()) == before["crop-flip"]


def test_rows_are_drawn_alone_and_in_any_order_as_all_together() -> None:
    generator = np.random.default_rng(0)
    good, sizes = generator.random(200) < 0.8, generator.integers(20, 90, (200, 2), np.int32)
    rows = generator.permutation(np.r_[0:200, 5:9])
    for policy in (MIXUP, CUTMIX):
        np.testing.assert_array_equal(draw_mixing(policy, 3, 1, rows, good), drawn(policy, good)[rows])
    whole = fresh_parameters(POLICIES["moco-v2"], 16, 2, 4, sizes)
    np.testing.assert_array_equal(random_parameters(POLICIES["moco-v2"], 16, 2, 4, rows, sizes[rows]), whole[rows])
    assert uniform_draws(1, 1, rows[:0]).shape == (0, 32)


def test_the_second_image_is_any_other_good_one_alike() -> None:
    good = np.ones(12, bool)
    good[[0, 5]] = False
    count = np.zeros((12, 12), int)
    for view in range(1, 2001):
        values = drawn(MIXUP, good, view=view)
        assert (values[~good] == UNMIXED).all()
        mixed = np.flatnonzero(values[:, ROW] >= 0)
        count[mixed, values[mixed, ROW].astype(int)] += 1
    allowed = good & good[:, None] & ~np.eye(12, dtype=bool)
    assert not count[~allowed].any()
    assert stats.chisquare(count[allowed]).pvalue > 1e-3


def test_mixups_share_is_uniform_and_its_box_the_view() -> None:
    values = drawn(MIXUP, np.ones(N, bool))
    mixed = values[:, ROW] >= 0
    assert (~mixed).mean() == pytest.approx(1 / 512, abs=3e-3)  # a share of 255.5 and more is the first image alone
    assert (values[mixed][:, LEFT:] == [0, 0, 256, 256]).all()
    assert stats.kstest(values[:, SHARE] / 256, "uniform").pvalue > 1e-3


def published_box(generator: np.random.Generator) -> tuple[int, int, int, int]:
    """By the arithmetic of clovaai/CutMix-PyTorch, train.py, for a view of 256 pixels and beta 1."""
    share = generator.beta(1.0, 1.0)
    cut = int(256 * np.sqrt(1.0 - share))
    x, y = generator.integers(256), generator.integers(256)
    left, right = max(x - cut // 2, 0), min(x + cut // 2, 256)
    top, bottom = max(y - cut // 2, 0), min(y + cut // 2, 256)
    return left, top, right - left, bottom - top


def test_cutmix_boxes_are_distributed_as_the_published_ones() -> None:
    values = drawn(CUTMIX, np.ones(N, bool))
    values = values[values[:, ROW] >= 0]
    assert (values[:, SHARE] == 0).all()
    generator = np.random.default_rng(1)
    published = np.array([published_box(generator) for _ in range(N)])
    published = published[published[:, 2] > 0]
    for column, name in enumerate(("left", "top", "width", "height")):
        assert stats.ks_2samp(values[:, LEFT + column], published[:, column]).pvalue > 1e-3, name
    areas = [each[:, -1] * each[:, -2] for each in (values, published)]
    assert stats.ks_2samp(*areas).pvalue > 1e-3


def test_an_image_is_mixed_by_the_probabilities_of_the_policy_and_once() -> None:
    values = drawn(MixingPolicy(mixup=0.3, cutmix=0.5), np.ones(N, bool))
    mixed = values[:, ROW] >= 0
    is_mixup = mixed & (values[:, SHARE] > 0)
    assert is_mixup.mean() == pytest.approx(0.3, abs=0.03)
    assert (mixed & ~is_mixup).mean() == pytest.approx(0.5, abs=0.03)
    assert (values[~mixed] == UNMIXED).all()
    geometry = uniform_draws(3, 1, np.arange(N), 8)
    assert not np.isin(uniform_draws(3, 1 + MIXING_STREAM, np.arange(N), 8), geometry).any()


@pytest.mark.parametrize("side", [1, 7, 16, 33])
def test_mixed_pixels_are_those_of_a_loop_over_them(side: int) -> None:
    generator = np.random.default_rng(side)
    first, second = (generator.integers(0, 256, (count, side, side, 3), np.uint8) for count in (9, 40))
    chosen = generator.permutation(np.arange(40) % 9)[:9]
    chosen = np.unique(chosen)
    values = np.concatenate([drawn(policy, np.ones(50, bool)) for policy in (MIXUP, CUTMIX)])
    values = generator.permutation(values[values[:, ROW] >= 0])[: len(chosen)]
    parameters = np.hstack([np.zeros((len(chosen), len(COLUMNS)), np.float32), values])
    before = first.copy()
    found = mix(torch.from_numpy(first), torch.from_numpy(second[: len(chosen)]), chosen, parameters).numpy()

    expected = before.copy()
    for number, image in enumerate(chosen):
        _, share, left, top, width, height = (int(value) for value in values[number])
        for y in range(side):
            for x in range(side):
                # A pixel is inside if its number is not below an edge, and below the other, both rounded half up.
                low_x, high_x = (int(np.floor(edge * side / 256 + 0.5)) for edge in (left, left + width))
                low_y, high_y = (int(np.floor(edge * side / 256 + 0.5)) for edge in (top, top + height))
                if low_x <= x < high_x and low_y <= y < high_y:
                    for colour in range(3):
                        both = int(before[image, y, x, colour]), int(second[number, y, x, colour])
                        mean = (both[0] * share + both[1] * (256 - share)) / 256
                        expected[image, y, x, colour] = int(np.floor(mean + 0.5))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(first, before)


def check(values: npt.NDArray[np.float32], good: npt.NDArray[np.bool_]) -> Any:
    """Of mixed views of 50 x 50 pixels."""
    sizes, policy = np.full((len(good), 2), 50, np.int32), {"name": "crop-flip+mixup", "mixup": 1.0}
    view = {"size": 32, "policy": policy}
    plain = fresh_parameters(MIXUP, 32, 3, 1, sizes)
    return impossible(np.hstack([plain, values]), np.where(good, 0, 1).astype(np.uint8), sizes, view, good)


def test_all_that_is_drawn_is_possible_and_what_cannot_be_drawn_is_named() -> None:
    good = np.ones(30, bool)
    good[[4, 9]] = False
    for policy in (MIXUP, CUTMIX, MixingPolicy(mixup=0.4, cutmix=0.4)):
        assert check(drawn(policy, good), good) is None
    wrong = {"mix_row": 30, "mix_share": 257, "mix_left": -1, "mix_top": 1, "mix_width": 256.5, "mix_height": np.nan}
    for column, (name, value) in enumerate(wrong.items()):
        values = drawn(MIXUP, good)
        values[[4, 7], column] = value
        fault = check(values, good)
        assert fault is not None
        assert (fault[0], name in fault[1]) == (7, True)
    values = drawn(MIXUP, good)
    values[7, ROW] = 9
    assert check(values, good) == (7, "is mixed with row 9, which is not a good image")


def test_a_split_of_one_image_has_none_to_mix_with() -> None:
    with pytest.raises(InputError, match="Mixing needs two good images in a split, and there is 1"):
        drawn(MIXUP, np.array([False, True, False]))


def test_a_row_number_that_float32_cannot_hold_is_refused() -> None:
    check_row_numbers("train", COLUMNS, 2**30)
    check_row_numbers("train", COLUMNS + MIX_COLUMNS, 2**24)
    with pytest.raises(StoreError, match=r"Split train would have 16,777,217 rows, and mixed views name at most"):
        check_row_numbers("train", COLUMNS + MIX_COLUMNS, 2**24 + 1)
    assert list(MIX_COLUMN.values()) == list(range(16, 22))


def test_policies_that_mix_are_for_stored_views_alone() -> None:
    stored: TypeAdapter[Any] = TypeAdapter(StoredPolicySetting)
    for given, name in (
        ("crop-flip+mixup", "crop-flip+mixup"), ({"cutmix": 1.0}, "crop-flip+cutmix"), ({"mixup": 0.5}, "custom"),
    ):  # fmt: skip
        policy = stored.validate_python(given)
        assert (type(policy), str(policy)) == (MixingPolicy, name)
        with pytest.raises(ValidationError, match="need a teacher's embedding of the mixed images"):
            TypeAdapter(PolicySetting).validate_python(given)
    plain = stored.validate_python({"flip": 0.5})
    assert (type(plain), str(plain)) == (Policy, "crop-flip")
    for wrong in ({"mixup": 0.6, "cutmix": 0.6}, {"mixup": 0.0}, {"mixup": 1.5}):
        with pytest.raises(ValidationError, match="mixup"):
            stored.validate_python(wrong)
