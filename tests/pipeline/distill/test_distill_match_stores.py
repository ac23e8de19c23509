"""Stores of several teachers: rows matched by path, and views that are not the same refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.distill.inputs import check_same_views, match_rows
from compress_ssl.storage import open_store
from compress_ssl.storage.errors import StoreError, StoreIncompleteError
from compress_ssl.storage.schema import Status
from tests.gpu.parts.photographs import photograph, save

Trained = Callable[..., dict[str, Tensor]]
Embed = Callable[..., Path]
Rearranged = Callable[[str, Path, Any], Path]

KINDS: dict[str, dict[str, Any]] = {
    "2q": {"objective": "compress-2q", "mask_own": True, "centre": True, "prefill": True},
    "1q-k-means": {"objective": "compress-1q", "anchors": "k-means", "bank_size": 7},
    "crd": {"objective": "crd", "negatives": 40},
    "cc": {"objective": "cc", "clusters": 4},
}
"""Each keeps something else by row."""


@pytest.mark.parametrize("kind", KINDS)
def test_second_store_may_have_its_rows_in_any_order(
    trained: Trained, rearranged: Rearranged, other: Path, assert_same: Any, tmp_path: Path, kind: str
) -> None:
    permuted = rearranged("permuted.zarr", other, np.random.default_rng(0).permutation(29).tolist())
    expected = trained("in-order", also_store=(other,), **KINDS[kind])
    assert_same(trained("permuted", also_store=(permuted,), **KINDS[kind]), expected)


@pytest.mark.parametrize("given", [{}, {"student_view": "fresh"}, {"teacher_memory": "mapped", "prefill": True}])
def test_second_store_may_have_more_images_also_than_the_data_set(
    trained: Trained,
    rearranged: Rearranged,
    store: Path,
    other: Path,
    data: Path,
    assert_same: Any,
    tmp_path: Path,
    given: dict[str, Any],
) -> None:
    rows = [*range(20, 3, -1), 25]
    first = rearranged("first.zarr", store, rows)
    fitting = rearranged("fitting.zarr", other, rows)
    for path in open_store(first)["train"].samples.sample_path:
        copied = tmp_path / "few" / "train" / path
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / "train" / path, copied)
    settings = {"store": first, "data": tmp_path / "few", **given}
    expected = trained("fitting", also_store=(fitting,), **settings)
    assert_same(trained("larger", also_store=(other,), **settings), expected)


def test_rows_are_matched_by_path(rearranged: Rearranged, store: Path, other: Path) -> None:
    few = open_store(rearranged("few.zarr", store, [7, 3, 28, 0]))["train"]
    assert match_rows(few, open_store(other)["train"]).tolist() == [7, 3, 28, 0]


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 1, 0]])
def test_a_bad_image_of_another_store_is_one_that_it_lacks(
    rearranged: Rearranged, store: Path, other: Path, rows: list[int]
) -> None:
    first = open_store(rearranged("first.zarr", store, [0, 1, 2]))["train"]
    second = open_store(rearranged("second.zarr", other, rows))["train"]
    second.samples.status[rows.index(1)] = Status.BAD_IMAGE
    with pytest.raises(InputError, match=r"1 of the 3 images .*the first is 'apple/001\.jpg'"):
        match_rows(first, second)
    first.samples.status[1] = Status.BAD_IMAGE
    assert match_rows(first, second).tolist() == [rows.index(0), -1, rows.index(2)]


def test_images_that_another_store_lacks_are_counted_and_the_first_is_named(
    trained: Trained, rearranged: Rearranged, other: Path, tmp_path: Path
) -> None:
    smaller = rearranged("smaller.zarr", other, [*range(3), *range(5, 29)])
    with pytest.raises(
        InputError,
        match=r"2 of the 29 images of split train of '.*teacher\.zarr' are not in '.*smaller\.zarr', "
        r"the first is 'apple/003\.jpg'; embed",
    ):
        trained(also_store=(smaller,))
    assert not (tmp_path / "student").exists()


def test_image_that_was_another_one_is_named(trained: Trained, embedded: Embed, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "changed")
    shutil.copy(data / "train/apple/000.png", tmp_path / "changed/train/apple/002.png")
    with pytest.raises(
        InputError,
        match=r"1 images of split train had other content when '.*other\.zarr' was made than for '.*teacher\.zarr', "
        r"the first is 'apple/002\.png'",
    ):
        trained(also_store=(embedded(data=tmp_path / "changed"),))
    assert not (tmp_path / "student").exists()


def test_teachers_may_have_seen_a_view_at_their_own_size_and_interpolation(
    trained: Trained, embedded: Embed, store: Path
) -> None:
    larger = embedded(size=24, resize=27)
    view_of = {path: open_store(path)["train"].views[1]["size"] for path in (store, larger)}
    assert view_of == {store: 16, larger: 24}
    trained(also_store=(larger,))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"seed": 6},
            r"its seed is 6, and was 5\); embed the second from the same images with the same --policy and --seed",
        ),
        ({"policy": "moco-v2"}, r"its policy is \{.*\}, and was \{"),
        (
            {"views": 1},
            (
                r"2 random views are replayed, but '.*other\.zarr' has 1; "
                r"embed it with as many --views, train on fewer with"
            ),
        ),
        (
            {"split": ("train:0", "val:0")},
            r"2 random views are replayed, but '.*other\.zarr' has 0; .*--student-view fresh",
        ),
        ({"split": ("val:1",)}, r"'.*other\.zarr' has no split 'train'"),
    ],
)  # fmt: skip
def test_views_that_are_not_the_same_are_refused_unless_fresh_ones_are_seen(
    trained: Trained, embedded: Embed, tmp_path: Path, given: dict[str, Any], sentence: str
) -> None:
    different = embedded(**given)
    with pytest.raises((InputError, StoreError), match=sentence):
        trained(also_store=(different,))
    assert not (tmp_path / "student").exists()
    if given.get("split") != ("val:1",):
        trained(also_store=(different,), student_view="fresh", epochs=1)
    if given.get("views") == 1:
        trained("one-view", also_store=(different,), views=1, epochs=1)


def test_views_drawn_of_other_rows_are_refused(trained: Trained, embedded: Embed, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "more")
    shutil.copy(data / "train/pear/020.png", tmp_path / "more/train/apple/0000.png")  # before all others
    with pytest.raises(InputError, match=r"view 1 of 'apple/001\.jpg' is another in .*(crop|flip).* in another order"):
        trained(also_store=(embedded(data=tmp_path / "more"),))


def test_blur_of_another_size_is_another_view(embedded: Embed) -> None:
    blurred = {"policy": "moco-v2"}
    small, large = (open_store(embedded(**blurred, size=size, resize=size))["train"] for size in (16, 24))
    with pytest.raises(InputError, match="its size is 24, and was 16: blur_sigma does not scale"):
        check_same_views(small, large, match_rows(small, large), [1, 2])


def test_store_that_is_not_complete_is_named(trained: Trained, other: Path, tmp_path: Path) -> None:
    cut = shutil.copytree(other, tmp_path / "cut.zarr")
    for record in (cut / "train/embeddings/commits").glob("2*"):
        shutil.rmtree(record) if record.is_dir() else record.unlink()
    with pytest.raises(StoreIncompleteError, match=r"View 2 of split train of '.*cut\.zarr' is not complete"):
        trained(also_store=(cut,))


def test_a_store_of_images_decoded_smaller_goes_with_another_such_alone(
    trained: Trained, embedded: Embed, tmp_path: Path
) -> None:
    for number in range(9):
        save(tmp_path / "data" / "train" / f"{number}.jpg", photograph(number, 140, 160))
    scaled, also_scaled, whole = (
        embedded(data=tmp_path / "data", split=("train:2",), scaled_decoding=scaled) for scaled in (True, True, False)
    )
    with pytest.raises(InputError, match="one of them with --scaled-decoding"):
        trained(store=scaled, data=tmp_path / "data", also_store=(whole,))
    trained(store=scaled, data=tmp_path / "data", also_store=(also_scaled,))
