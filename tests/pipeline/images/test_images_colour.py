"""Colour operations against torchvision's on float images, one sample at a time."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as F

from compress_ssl.pipeline.images.colour import apply_colour, blur_kernel_size
from compress_ssl.pipeline.images.parameters import JITTER_ORDERS
from compress_ssl.storage.parameters import COLUMN, COLUMNS

SIDE = 48
NEUTRAL = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0}


def pictures(count: int, side: int = SIDE) -> Tensor:
    """Noise and smooth pictures in turn, uint8 (count, side, side, 3)."""
    generator = torch.Generator().manual_seed(count)
    noise = torch.randint(0, 256, (count, 3, side, side), generator=generator).float()
    smooth = torch.nn.functional.interpolate(noise[:, :, :4, :4], side, mode="bilinear").round()
    noise[1::2] = smooth[1::2]
    return noise.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def parameters(count: int, **values: object) -> npt.NDArray[np.float32]:
    table = np.zeros((count, len(COLUMNS)), np.float32)
    for name, value in (NEUTRAL | values).items():
        table[:, COLUMN[name]] = value
    return table


def everything(count: int) -> npt.NDArray[np.float32]:
    generator = np.random.default_rng(count)
    return parameters(
        count,
        brightness=generator.uniform(0.6, 1.4, count),
        contrast=generator.uniform(0.6, 1.4, count),
        saturation=generator.uniform(0.6, 1.4, count),
        hue=generator.uniform(-0.1, 0.1, count),
        jitter_order=np.arange(count) % 24,
        grey=np.arange(count) % 5 == 0,
        blur_sigma=np.where(np.arange(count) % 3 == 0, 0, generator.uniform(0.1, 2, count)),
    )


REFERENCE: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
}


def by_torchvision(image: Tensor, row: npt.NDArray[np.float32]) -> Tensor:
    value = {name: float(row[number]) for name, number in COLUMN.items()}
    result = image.permute(2, 0, 1).float() / 255
    for name in JITTER_ORDERS[int(value["jitter_order"])]:
        result = REFERENCE[name](result, value[name])
    if value["grey"]:
        result = F.rgb_to_grayscale(result, num_output_channels=3)
    if value["blur_sigma"]:
        taps = blur_kernel_size(image.shape[0])
        result = F.gaussian_blur(result, [taps, taps], [value["blur_sigma"]] * 2)
    return (result * 255).round().to(torch.uint8).permute(1, 2, 0)


def assert_close_to_torchvision(images: Tensor, table: npt.NDArray[np.float32]) -> None:
    """At most one level apart, and that at under one value in 500: those that lie half way between two levels."""
    ours = apply_colour(images, table)
    theirs = torch.stack([by_torchvision(image, row) for image, row in zip(images, table, strict=True)])
    difference = (ours.int() - theirs.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 2e-3
    assert not torch.equal(ours, images)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("brightness", (0.0, 0.6, 1.4, 2.0)),
        ("contrast", (0.0, 0.6, 1.4, 2.0)),
        ("saturation", (0.0, 0.6, 1.4, 2.0)),
        ("hue", (-0.5, -0.1, 0.03, 0.1, 0.5)),
        ("blur_sigma", (0.3, 1.0, 2.0)),
        ("grey", (1.0,)),
    ],
)
def test_one_operation_is_that_of_torchvision(name: str, values: tuple[float, ...]) -> None:
    for value in values:
        assert_close_to_torchvision(pictures(6), parameters(6, **{name: value}))


def test_all_orders_of_the_jitter_are_those_of_torchvision() -> None:
    table = parameters(24, brightness=1.3, contrast=0.7, saturation=1.4, hue=0.08, jitter_order=np.arange(24))
    images = pictures(2)[[1] * 24]
    assert_close_to_torchvision(images, table)
    assert len({image.numpy().tobytes() for image in apply_colour(images, table)}) > 6


def test_jitter_grey_and_blur_together_are_those_of_torchvision() -> None:
    assert_close_to_torchvision(pictures(48), everything(48))


def test_an_image_is_the_same_bit_for_bit_in_any_batch_and_with_any_threads() -> None:
    images, table = pictures(25, 57), everything(25)
    torch.set_num_threads(1)
    whole = apply_colour(images, table)
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        for batch_size in (1, 7, 25):
            parts = zip(images.split(batch_size), np.split(table, range(batch_size, 25, batch_size)), strict=True)
            assert torch.equal(torch.cat([apply_colour(part, rows) for part, rows in parts]), whole)
    order = np.random.default_rng(0).permutation(25)
    assert torch.equal(apply_colour(images[order], table[order]), whole[order])


def test_rows_that_ask_for_nothing_are_untouched() -> None:
    images, table = pictures(20), everything(20)
    table[::2] = parameters(10, jitter_order=np.arange(10))
    before = images.clone()
    result = apply_colour(images, table)
    assert torch.equal(result[::2], images[::2])
    assert (result[1::2] != images[1::2]).flatten(1).any(dim=1).all()
    assert torch.equal(images, before)
    assert apply_colour(images, parameters(20)) is images


def test_hue_leaves_grey_pixels_alone() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3).contiguous()
    assert torch.equal(apply_colour(levels, parameters(1, hue=0.3)), levels)


def test_hue_turns_red_to_green_by_a_third_of_the_circle() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).expand(1, 8, 8, 3).contiguous()
    assert apply_colour(red, parameters(1, hue=1 / 3))[0, 0, 0].tolist() == [0, 255, 0]


def test_small_views_can_be_blurred() -> None:
    for side in [8, 16, 32]:
        images = pictures(4, side)
        result = apply_colour(images, parameters(4, blur_sigma=2.0))
        taps = blur_kernel_size(side)
        theirs = F.gaussian_blur(images.permute(0, 3, 1, 2).float(), [taps, taps], [2.0, 2.0])
        assert (result.permute(0, 3, 1, 2) - theirs.round()).abs().max() <= 1


def test_the_blur_has_the_kernel_of_simclr_at_224_pixels() -> None:
    assert blur_kernel_size(224) == 23
    assert all(blur_kernel_size(side) % 2 == 1 for side in range(8, 400))
