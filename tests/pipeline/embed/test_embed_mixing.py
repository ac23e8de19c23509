"""Stores of mixed views: the teacher's pixels, bytes after interruptions and in parts, growth, and what is refused."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import xxhash
import zarr
from click.testing import CliRunner
from PIL import Image
from torchvision.transforms import functional as F

from compress_ssl.cli.main import main
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.images.canaries import check_canaries
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.storage import EmbeddingStore, open_store
from compress_ssl.storage.errors import StoreMismatchError, StoreUnsafeError
from compress_ssl.storage.parameters import COLUMNS, MIX_COLUMN, MIX_COLUMNS
from compress_ssl.storage.tools.verify import verify_store
from tests.processes import Forked, run_command_until
from tests.reliability.hostile_augmentation import forge

Embedded = Callable[..., EmbeddingStore]
ROW = MIX_COLUMN["mix_row"]
BOTH: dict[str, Any] = {"policy": {"mixup": 0.5, "cutmix": 0.4}, "split": ("train",)}


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unmixed(folder: Path, split: Any, view: int, row: int, side: int = 16) -> npt.NDArray[np.int64]:
    """One image's view of a store by torchvision's functions, without what is mixed in."""
    value = {
        name: int(number)
        for name, number in zip(split.columns, split.augmentation(view)[row].tolist(), strict=True)
        if name in COLUMNS
    }
    with Image.open(folder / split.folder / split.samples.sample_path[row]) as file:
        image = F.crop(
            file.convert("RGB"), value["crop_top"], value["crop_left"], value["crop_height"], value["crop_width"]
        )
    image = F.resize(image, [value["resize_height"], value["resize_width"]], antialias=True)
    image = F.crop(image, value["window_top"], value["window_left"], side, side)
    return np.asarray(F.hflip(image) if value["flip"] else image).astype(np.int64)


def mixed(folder: Path, split: Any, view: int, row: int, side: int = 16) -> npt.NDArray[np.uint8]:
    """The view of both images, as docs/store-format.md says."""
    first = unmixed(folder, split, view, row, side)
    other, share, left, top, width, height = split.augmentation(view)[row, ROW:].astype(np.int64)
    if other >= 0:
        edges = np.floor(np.array([left, left + width, top, top + height]) * side / 256 + 0.5).astype(int)
        box = (slice(edges[2], edges[3]), slice(edges[0], edges[1]))
        second = unmixed(folder, split, view, other, side)
        first[box] = (first[box] * share + second[box] * (256 - share) + 128) // 256
    return first.astype(np.uint8)


def hashes(store: EmbeddingStore) -> dict[tuple[int, int], str]:
    """Of every view of ``train`` that was rendered for the teacher, by view and row."""
    lines = store.path.with_name(f"{store.path.name}.pixel-hashes.jsonl").read_text().splitlines()
    logged = map(json.loads, lines)
    return {(line["view"], line["row"]): line["xxh3_128"] for line in logged if line["split"] == "train"}


@pytest.fixture
def with_a_bad_image(data: Path) -> Path:
    (data / "train/apple/003.jpg").write_bytes(b"no image")
    return data


def test_the_teacher_sees_both_images_as_the_page_on_the_format_says(
    with_a_bad_image: Path, tmp_path: Path, embedded: Embedded
) -> None:
    store = embedded(
        with_a_bad_image, tmp_path / "store.zarr", renderer="torchvision", on_bad_image="skip", pixel_hashes=10**6,
        **BOTH | {"split": ("train", "val:0")},
    )  # fmt: skip
    split, seen = store["train"], hashes(store)
    kinds = set()
    for view in (0, 1, 2):
        parameters = split.augmentation(view)
        for row in np.flatnonzero(split.samples.good).tolist():
            expected = mixed(with_a_bad_image, split, view, row)
            assert seen[view, row] == xxhash.xxh3_128_hexdigest(expected.tobytes()), (view, row)
            kinds.add((view > 0, parameters[row, ROW] >= 0, parameters[row, ROW + 1] > 0))
    assert kinds == {(False, False, True), (True, False, True), (True, True, False), (True, True, True)}
    assert (store["train"].columns, store["val"].columns) == (COLUMNS + MIX_COLUMNS, COLUMNS)
    group = zarr.open_group(str(store.path), mode="r")["train"]
    assert group["augmentation"].shape == (3, 36, 22)


def test_a_run_killed_in_parts_leaves_the_bytes_of_one_that_was_not(
    data: Path, tmp_path: Path, embedded: Embedded
) -> None:
    whole = embedded(data, tmp_path / "whole.zarr", policy="crop-flip+cutmix", split=("train",))
    words = ("--teacher", "random/conv4-16", "--size", "16", "--resize", "20", "--views", "2", "--batch-size", "5",
             "--block-rows", "9", "--threads", "1", "--split", "train", "--policy", "crop-flip+cutmix")  # fmt: skip
    place = tmp_path / "killed.zarr"
    kill_at = (r"os\.rename .*commits/\d/\d+\.json$", 4, 0.0)
    process = Forked(run_command_until, kill_at, "embed", str(data), str(place), *words)
    assert process.wait() == -signal.SIGKILL, process.errors
    assert not open_store(place).is_complete
    done = embedded(data, place, policy="crop-flip+cutmix", split=("train",), resume=True)
    assert files(done.path) == files(whole.path)
    for number in (1, 2):
        embedded(data, tmp_path / f"{number}.zarr", policy="crop-flip+cutmix", split=("train",), part=f"{number}/2")
    answer = CliRunner().invoke(
        main, ["store", "merge", *(str(tmp_path / name) for name in ("1.zarr", "2.zarr", "all.zarr"))]
    )
    assert answer.exit_code == 0, answer.output
    assert files(tmp_path / "all.zarr") == files(whole.path)


def test_parts_with_and_without_columns_of_mixing_are_not_merged(
    data: Path, tmp_path: Path, embedded: Embedded
) -> None:
    places = [str(tmp_path / name) for name in ("plain.zarr", "mixed.zarr", "all.zarr")]
    embedded(data, places[0], split=("train:0",), part="1/2")
    embedded(data, places[1], split=("train",), policy="crop-flip+mixup", part="2/2")
    answer = CliRunner().invoke(main, ["store", "merge", *places])
    assert (answer.exit_code, "their columns of augmentation is" in " ".join(answer.output.split())) == (2, True)
    assert not (tmp_path / "all.zarr").exists()


def test_a_view_that_its_policy_does_not_mix_has_no_second_images(
    data: Path, tmp_path: Path, embedded: Embedded
) -> None:
    store = embedded(data, tmp_path / "store.zarr", policy="crop-flip+mixup", split=("train",))
    forge(Path(str(store.path)), "augmentation", (0, 5, ROW), 3)
    with pytest.raises(
        StoreUnsafeError, match=r"Row 5 of view 0 .* has mix_row = 3, which is not a whole number from -1"
    ):
        open_store(store.path)["train"].augmentation(0)


def test_a_store_of_mixed_views_is_not_continued_with_others(data: Path, tmp_path: Path, embedded: Embedded) -> None:
    embedded(data, tmp_path / "mixed.zarr", policy="crop-flip+mixup", part="1/2")
    embedded(data, tmp_path / "plain.zarr", part="1/2")
    for name, policy in (("mixed", "crop-flip"), ("mixed", "crop-flip+cutmix"), ("plain", "crop-flip+mixup")):
        with pytest.raises(StoreMismatchError, match="policy of view 1"):
            embedded(data, tmp_path / f"{name}.zarr", policy=policy, resume=True)


def test_canaries_keep_both_images_and_are_rendered_from_what_they_keep(
    data: Path, tmp_path: Path, embedded: Embedded
) -> None:
    store = embedded(data, tmp_path / "store.zarr", policy="crop-flip+mixup", pixel_hashes=10**6, renderer="dali")
    canaries = store.attributes["canaries"]["train"]
    seen = hashes(store)
    for canary in canaries:
        assert canary["xxh3_128"] == seen[canary["view"], canary["row"]]
        second = int(canary["parameters"][ROW])
        expected = store["train"].augmentation(canary["view"])[second, :ROW].tolist() if second >= 0 else None
        assert canary.get("second_parameters") == expected
    assert any("second_parameters" in canary for canary in canaries)
    renderer, source = make_renderer("dali", torch.device("cpu"), 1), open_source(data, "train")
    check_canaries(store, "train", source, renderer, 5)
    for wrong in ([0.0] * 16, [1.0] * 22, "none"):
        attributes = json.loads(json.dumps(dict(store.attributes)))
        for canary in attributes["canaries"]["train"]:
            canary |= {"second_parameters": wrong} if "second_parameters" in canary else {}
        other = open_store(store.path)
        other.attributes = attributes
        with pytest.raises(InputError, match=r"The canaries of split train of .* cannot be read"):
            check_canaries(other, "train", source, renderer, 5)


def test_a_second_image_that_has_changed_is_named(data: Path, tmp_path: Path, embedded: Embedded) -> None:
    store = embedded(data, tmp_path / "store.zarr", policy="crop-flip+mixup", split=("train",))
    canaries = store.attributes["canaries"]["train"]
    seconds = {int(canary["parameters"][ROW]) for canary in canaries} - {-1}
    second = min(seconds - {canary["row"] for canary in canaries})
    name = store["train"].samples.sample_path[second]
    Image.new("RGB", (24, 20)).save(data / "train" / name)
    with pytest.raises(InputError, match=rf"{name}' has changed since it was indexed or embedded"):
        check_canaries(store, "train", open_source(data, "train"), make_renderer("dali", torch.device("cpu"), 1), 5)


def test_embedded_again_mixed_views_agree_and_a_forged_second_image_does_not(
    data: Path, tmp_path: Path, embedded: Embedded
) -> None:
    store = embedded(data, tmp_path / "store.zarr", policy="crop-flip+mixup", split=("train",))
    words = ["store", "verify", str(store.path), "--teacher", "random/conv4-16", "--data", str(data), "--threads", "1"]
    for _ in range(3):  # the views are drawn anew
        answer = CliRunner().invoke(main, words)
        assert (answer.exit_code, "cosine 1.000000 on average, 1.000000 at least" in answer.output) == (0, True)
    forge(Path(str(store.path)), "augmentation", (1, 5, ROW), 36)
    answer = CliRunner().invoke(main, words[:3])
    assert (answer.exit_code, "has mix_row = 36, which is not a whole" in " ".join(answer.output.split())) == (1, True)
    with pytest.raises(StoreUnsafeError, match=r"Row 5 of view 1 .* has mix_row = 36, which is not a whole number"):
        open_store(store.path)["train"].augmentation_rows(1, [7, 5])


def grown(data: Path, store: Path, **settings: Any) -> EmbeddingStore:
    given = {"teacher": "random/conv4-16", "batch_size": 5, "threads": 1, **settings}
    return embed(EmbedSettings(data=data, store=store, **given), Silent())


def test_added_images_are_mixed_with_any_image_and_those_before_stay_as_they_are(
    data: Path, tmp_path: Path, embedded: Embedded
) -> None:
    before = embedded(data, tmp_path / "store.zarr", views=4, policy="crop-flip+mixup", split=("train",))
    old = [before["train"].augmentation(view) for view in range(5)]
    for number in range(12):
        shutil.copy(data / "val/apple/000.png", data / "train/apple" / f"new-{number:02d}.png")
    shutil.copytree(tmp_path / "store.zarr", tmp_path / "parted.zarr")
    store = grown(data, tmp_path / "store.zarr", add_images=True)
    split = store["train"]
    second = []
    for view in range(1, 5):
        parameters = split.augmentation(view)
        np.testing.assert_array_equal(parameters[:36], old[view])
        second += parameters[36:, ROW].astype(int).tolist()
    assert min(second) < 36 <= max(second) < 48
    assert verify_store(store).ok
    grown(data, tmp_path / "parted.zarr", add_images=True, part="1/2")
    grown(data, tmp_path / "parted.zarr", add_images=True, part="2/2", resume=True)
    assert files(tmp_path / "parted.zarr") == files(store.path)
    renderer = make_renderer("dali", torch.device("cpu"), 1)
    check_canaries(store, "train", open_source(data, "train"), renderer, 5)
    more = grown(data, store.path, add_views=1)
    assert more["train"].augmentation(5)[:36, ROW].max() >= 36
    check_canaries(more, "train", open_source(data, "train"), renderer, 5)


def test_views_are_added_to_mixed_ones_and_mixed_ones_to_a_store_that_has_the_columns(
    data: Path, tmp_path: Path, embedded: Embedded
) -> None:
    whole = embedded(data, tmp_path / "whole.zarr", views=3, policy="crop-flip+mixup", split=("train",))
    embedded(data, tmp_path / "store.zarr", views=2, policy="crop-flip+mixup", split=("train",))
    shutil.copytree(tmp_path / "store.zarr", tmp_path / "other.zarr")
    store = grown(data, tmp_path / "store.zarr", add_views=1)
    assert files(store.path / "train") == files(whole.path / "train")
    other = grown(data, tmp_path / "other.zarr", add_views=1, policy="moco-v2")
    names = [view["policy"]["name"] for view in other["train"].views]
    assert names == ["evaluation", "crop-flip+mixup", "crop-flip+mixup", "moco-v2"]
    assert (other["train"].augmentation(3)[:, ROW] == -1).all()
    mixed_again = grown(data, other.path, add_views=1, policy="crop-flip+cutmix")
    assert (mixed_again["train"].augmentation(4)[:, ROW] >= 0).any()


def test_growth_that_cannot_be_mixed_is_refused(data: Path, tmp_path: Path, embedded: Embedded) -> None:
    plain = embedded(data, tmp_path / "plain.zarr", split=("train",))
    before = files(plain.path)
    with pytest.raises(InputError, match=r"was made without the columns mix_row, .*; embed them into a store of"):
        grown(data, plain.path, add_views=1, policy="crop-flip+mixup")
    assert files(plain.path) == before
    mixing = embedded(data, tmp_path / "mixed.zarr", split=("train",), policy="crop-flip+mixup")
    shutil.copy(data / "val/apple/000.png", data / "train/apple/new.png")
    with pytest.raises(InputError, match="Images and mixed views cannot be added at once; append the images"):
        grown(data, mixing.path, add_views=1, add_images=True)
    with pytest.raises(InputError, match="Mixing needs two good images in a split, and there is 1"):
        embedded(data, tmp_path / "one.zarr", split=("train",), policy="crop-flip+mixup", limit=1)
    assert not (tmp_path / "one.zarr").exists()


def test_a_mixed_store_is_the_same_when_copied_and_after_hdf5(data: Path, tmp_path: Path, embedded: Embedded) -> None:
    store = embedded(data, tmp_path / "store.zarr", policy="crop-flip+mixup")
    for words in (
        ("copy", store.path, tmp_path / "copy.zarr"),
        ("export", store.path, "--to", tmp_path / "store.h5"),
        ("import", tmp_path / "store.h5", tmp_path / "back.zarr"),
    ):
        answer = CliRunner().invoke(main, ["store", *map(str, words)])
        assert answer.exit_code == 0, answer.output
    assert files(tmp_path / "copy.zarr") == files(store.path)
    assert files(tmp_path / "back.zarr") == files(store.path)
