"""A store that is there gets more views or more images; only what is new is computed, and what was there stays."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pydantic import ValidationError

from compress_ssl.cli.main import main
from compress_ssl.pipeline.common.device import choose_precision
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.storage import EmbeddingStore, open_store
from compress_ssl.storage.errors import StoreError, StoreIncompleteError, StoreMismatchError, StoreNotFoundError
from compress_ssl.storage.tools.growth import is_growing
from compress_ssl.storage.tools.verify import verify_store
from tests.processes import Forked, run_command_until

Embedded = Callable[..., EmbeddingStore]


def files(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob(pattern) if path.is_file()}


@pytest.fixture
def grown(embedded: Embedded) -> Embedded:
    """Run stage one on a store that is there, told nothing but the teacher and what to add."""
    from compress_ssl.pipeline.common.progress import Silent
    from compress_ssl.pipeline.embed.run import embed

    def run(data: Path, store: Path, **settings: object) -> EmbeddingStore:
        given = {"teacher": "random/conv4-16", "batch_size": 5, "threads": 1, **settings}
        return embed(EmbedSettings(data=data, store=store, **given), Silent())

    return run


def test_added_views_are_those_of_a_store_that_was_made_with_them(
    data: Path, tmp_path: Path, embedded: Embedded, grown: Embedded
) -> None:
    """Byte for byte but for the canaries, some of which are of the new views, and for what it remembers."""
    whole = embedded(data, tmp_path / "whole.zarr", views=5, seed=3)
    embedded(data, tmp_path / "store.zarr", views=2, seed=3)
    stamps = {path: path.stat().st_ino for path in (tmp_path / "store.zarr/train/embeddings/c").rglob("0")}
    store = grown(data, tmp_path / "store.zarr", add_views=3)
    for split in ("train", "val"):
        assert files(store.path / split) == files(whole.path / split)
    assert {path: path.stat().st_ino for path in stamps} == stamps
    assert [len(store[name].views) for name in ("train", "val")] == [6, 1]
    canaries = store.attributes["canaries"]["train"]
    assert {canary["view"] for canary in canaries} == set(range(6))
    own = {"canaries", "growth"}
    assert {key: store.attributes[key] for key in store.attributes if key not in own} == {
        key: whole.attributes[key] for key in whole.attributes if key not in own
    }
    assert store.attributes["canaries"]["val"] == whole.attributes["canaries"]["val"]


def test_later_views_may_have_another_policy(data: Path, tmp_path: Path, embedded: Embedded, grown: Embedded) -> None:
    embedded(data, tmp_path / "store.zarr")
    store = grown(data, tmp_path / "store.zarr", add_views=1, policy="moco-v2")
    names = [view["policy"]["name"] for view in store["train"].views]
    assert names == ["evaluation", "crop-flip", "crop-flip", "moco-v2"]
    sigma = store["train"].augmentation(3)[:, store["train"].columns.index("blur_sigma")]
    assert (sigma > 0).any()
    student = CliRunner().invoke(
        main,
        ["distill", str(store.path), str(data), str(tmp_path / "student"), "--student", "conv4-16", "--batch-size", "8",
         "--epochs", "3", "--bank-size", "16", "--threads", "1"],
    )  # fmt: skip
    assert student.exit_code == 0, student.output


def add_images(data: Path) -> list[str]:
    """Five images: in both classes and in a new one between them.

    Names of which some sort before those that are there.
    """
    new = ["apple/000a.png", "apple/zz.png", "banana/b.jpg", "banana/a.png", "pear/0.png"]
    (data / "train" / "banana").mkdir()
    for number, name in enumerate(new):
        source = data / "val" / ("apple", "pear")[number % 2] / ("000.png", "004.png")[number % 2]
        shutil.copy(source, data / "train" / name)
    return new


def test_new_images_are_appended_in_all_views_and_old_rows_stay(
    data: Path, tmp_path: Path, embedded: Embedded, grown: Embedded
) -> None:
    before = embedded(data, tmp_path / "store.zarr", block_rows=10)["train"]
    old = [before.view(view) for view in range(3)]
    old_paths = before.samples.sample_path
    new = add_images(data)
    store = grown(data, tmp_path / "store.zarr", add_images=True)
    train, samples = store["train"], store["train"].samples
    assert len(train) == 45
    assert samples.sample_path == [*old_paths, "", "", "", "", *sorted(new)]
    assert samples.status.tolist() == [0] * 36 + [2] * 4 + [0] * 5
    assert samples.class_names == ("apple", "pear", "banana")
    assert [samples.class_names[label] for label in samples.label[40:]] == [
        "apple",
        "apple",
        "banana",
        "banana",
        "pear",
    ]
    for view in range(3):
        np.testing.assert_array_equal(train.view(view)[:36], old[view])
    assert verify_store(store).ok
    assert store.attributes["data_set"]["images"] == 36 + 8 + 5
    fresh = embedded(data, tmp_path / "fresh.zarr")["train"]
    position = {path: row for row, path in enumerate(fresh.samples.sample_path)}
    rows = [position[path] for path in samples.sample_path if path]
    np.testing.assert_allclose(train.view(0)[samples.good], fresh.view(0)[rows], rtol=2e-3, atol=1e-4)


def test_grown_store_trains_and_is_evaluated_without_its_padding(
    data: Path, tmp_path: Path, embedded: Embedded, grown: Embedded
) -> None:
    embedded(data, tmp_path / "store.zarr", block_rows=10)
    add_images(data)
    store = str(grown(data, tmp_path / "store.zarr", add_images=True).path)
    words = ["--student", "conv4-16", "--batch-size", "41", "--epochs", "1", "--bank-size", "16", "--threads", "1"]
    student = CliRunner().invoke(main, ["distill", store, str(data), str(tmp_path / "student"), *words])
    assert student.exit_code == 0, student.output
    words[3] = "42"
    refused = CliRunner().invoke(main, ["distill", store, str(data), str(tmp_path / "other"), *words])
    assert "more than the 41 good images" in " ".join(refused.output.split())
    info = CliRunner().invoke(main, ["store", "info", store])
    assert "41 images (0 bad), 3 classes" in info.output


def test_grown_store_grows_again_and_is_complete_to_resume(
    data: Path, tmp_path: Path, embedded: Embedded, grown: Embedded
) -> None:
    embedded(data, tmp_path / "store.zarr", block_rows=10)
    add_images(data)
    store = grown(data, tmp_path / "store.zarr", add_images=True)
    parameters = store["train"].augmentation(2)
    shutil.copy(data / "train/apple/000.png", data / "train/apple/later.png")
    store = grown(data, tmp_path / "store.zarr", add_images=True, add_views=1)
    assert (len(store["train"]), len(store["train"].views)) == (51, 4)
    np.testing.assert_array_equal(store["train"].augmentation(2)[:45], parameters)
    before = files(store.path)
    again = embedded(data, store.path, resume=True, views=3, block_rows=10)
    assert files(again.path) == before


def test_image_that_is_gone_or_has_changed_is_named(
    data: Path, tmp_path: Path, embedded: Embedded, grown: Embedded
) -> None:
    store = embedded(data, tmp_path / "store.zarr").path
    before = files(store)
    gone = data / "train/apple/003.jpg"
    content = gone.read_bytes()
    gone.unlink()
    with pytest.raises(
        StoreMismatchError, match=r"1 of the 36 images of split train are missing from the data \('apple/003"
    ):
        grown(data, store, add_images=True)
    gone.write_bytes((data / "train/apple/005.jpg").read_bytes())
    with pytest.raises(
        StoreMismatchError, match=r"'apple/003\.jpg' of split train has another content now than in the store"
    ):
        grown(data, store, add_views=1)
    gone.unlink()
    (data / "train/pear/003.jpg").write_bytes(content)
    with pytest.raises(StoreMismatchError, match="missing from the data"):
        grown(data, store, add_images=True)
    assert files(store) == before


def test_settings_other_than_the_store_s_are_refused(
    data: Path, tmp_path: Path, embedded: Embedded, grown: Embedded
) -> None:
    store = embedded(data, tmp_path / "store.zarr").path
    before = files(store)
    cases: list[tuple[dict[str, object], str]] = [
        ({"teacher": "random/conv4-32"}, "was made with architecture = 'conv4-16', now it is 'conv4-32'"),
        ({"seed": 1}, "seed = 0, now it is 1|was made with weights_sha256"),
        ({"size": 20}, "was made with size = 16, now it is 20"),
        ({"block_rows": 7}, "was made with block_rows = 9, now it is 7"),
        ({"normalise": True}, "was made with normalised = False, now it is True"),
        ({"split": ("other",)}, "has no split 'other'"),
    ]
    if choose_precision("bfloat16", torch.device("cpu")) == "bfloat16":
        cases.append(({"precision": "bfloat16"}, "was made with precision = 'float32', now it is 'bfloat16'"))
    for settings, sentence in cases:
        with pytest.raises(StoreError, match=sentence):
            grown(data, store, add_views=1, **settings)
        assert files(store) == before


def test_seed_of_more_views_must_be_the_store_s(
    data: Path, tmp_path: Path, embedded: Embedded, wanting: Callable[[str], str]
) -> None:
    """A teacher from a file, which no seed draws."""
    teacher = wanting("bilinear")
    embedded(data, tmp_path / "store.zarr", teacher=teacher)
    words = [str(data), str(tmp_path / "store.zarr"), "--teacher", teacher, "--threads", "1", "--add-views", "1"]
    answer = CliRunner().invoke(main, ["embed", *words, "--seed", "5"])
    assert answer.exit_code == 2
    assert "was made with seed = 0, now it is 5" in " ".join(answer.output.split())


def test_incomplete_store_is_finished_first(data: Path, tmp_path: Path, embedded: Embedded, grown: Embedded) -> None:
    embedded(data, tmp_path / "store.zarr", part="1/2")
    with pytest.raises(
        StoreIncompleteError, match=r"Split train of '.*' is not complete; finish it with --resume first"
    ):
        grown(data, tmp_path / "store.zarr", add_views=1)


def test_there_must_be_something_to_add_and_a_store_to_add_it_to(
    data: Path, tmp_path: Path, embedded: Embedded, grown: Embedded
) -> None:
    with pytest.raises(StoreNotFoundError, match="does not exist"):
        grown(data, tmp_path / "store.zarr", add_views=1)
    embedded(data, tmp_path / "store.zarr", split=("val:0",))
    with pytest.raises(InputError, match="its splits have view 0 alone"):
        grown(data, tmp_path / "store.zarr", add_views=1)
    with pytest.raises(InputError, match="all images of the dataset are in it"):
        grown(data, tmp_path / "store.zarr", add_images=True)
    assert len(grown(data, tmp_path / "store.zarr", add_views=1, split=("val",))["val"].views) == 2


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"add_views": 1, "overwrite": True}, "--overwrite makes a new store, --add-views keeps"),
        ({"add_images": True, "views": 3}, "--add-images takes the views that the store has"),
        ({"add_views": 1, "split": ("train:3",)}, "leave --views and NAME:VIEWS out"),
        ({"add_images": True, "policy": "moco-v2"}, "--policy with --add-images must be"),
        ({"add_views": 1, "policy": "ten-crop"}, "--policy with --add-views must be one of random views"),
        ({"part": "3/2"}, "'3/2' must be I/N"),
        ({"part": "half"}, "'half' must be I/N"),
    ],
)
def test_options_that_do_not_go_together_are_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        EmbedSettings(data=Path("data"), store=Path("store"), teacher="random/conv4-16", **settings)


def test_parts_of_two_machines_merge_into_the_bytes_of_one_run(data: Path, tmp_path: Path, embedded: Embedded) -> None:
    for part in (1, 2):
        store = embedded(data, tmp_path / f"part-{part}.zarr", part=f"{part}/2", block_rows=2)
        assert store["train"].committed_blocks(0) == 9
    answer = CliRunner().invoke(
        main, ["store", "merge", *(str(tmp_path / name) for name in ("part-1.zarr", "part-2.zarr", "all.zarr"))]
    )
    assert answer.exit_code == 0, answer.output
    assert files(tmp_path / "all.zarr") == files(embedded(data, tmp_path / "whole.zarr", block_rows=2).path)


MOMENTS = (1, 5, 10, 14, 15, 16, 17, 30, 44)
"""Renames at which it is killed: while room is made, before and after the growth counts, while blocks are written."""


def test_killed_while_it_grows_it_opens_and_goes_on_to_the_same_bytes(
    data: Path, tmp_path: Path, embedded: Embedded, grown: Embedded
) -> None:
    old = embedded(data, tmp_path / "store.zarr", block_rows=10, split=("train",))["train"].view(2)
    for number in MOMENTS:
        shutil.copytree(tmp_path / "store.zarr", tmp_path / f"store-{number}.zarr")
    add_images(data)
    words = ("--teacher", "random/conv4-16", "--batch-size", "5", "--threads", "1", "--add-views", "1", "--add-images")
    for number in MOMENTS:
        kill_at = (r"os\.rename .*store[^/]*\.zarr/", number, 0.0)
        place = tmp_path / f"store-{number}.zarr"
        process = Forked(run_command_until, kill_at, "embed", str(data), str(place), *words)
        assert process.wait() == -signal.SIGKILL, process.errors
    states = []
    whole = files(grown(data, tmp_path / "store.zarr", add_views=1, add_images=True).path)
    for number in MOMENTS:
        store = open_store(tmp_path / f"store-{number}.zarr")
        states.append((is_growing(store.attributes), len(store["train"].views)))
        if not is_growing(store.attributes):
            np.testing.assert_array_equal(store["train"].view(2), old)
        if not is_growing(store.attributes) and number == MOMENTS[0]:
            with pytest.raises(InputError, match="there is nothing to resume; leave --resume out to add them"):
                grown(data, store.path, add_views=1, add_images=True, resume=True)
        done = grown(data, store.path, add_views=1, add_images=True, resume=is_growing(store.attributes))
        assert files(done.path) == whole, number
    assert set(states) == {(False, 3), (True, 3), (True, 4)}


def test_to_resume_finishes_what_was_begun_and_begins_nothing(
    data: Path, tmp_path: Path, embedded: Embedded, grown: Embedded
) -> None:
    """Of two splits in parts, as two machines would; done is done however often and however it is asked for."""
    place = tmp_path / "store.zarr"
    embedded(data, place, views=1)
    with pytest.raises(InputError, match="there is nothing to resume"):
        grown(data, place, add_views=2, resume=True)
    assert not is_growing(grown(data, place, add_images=True, resume=True).attributes)  # it lacks none
    grown(data, place, add_views=2, policy="moco-v2", part="1/2")
    for other in ({"add_views": 1}, {"add_images": True}, {"add_views": 2, "policy": "crop-flip"}):
        with pytest.raises(InputError, match=r"Something else is being added to .*; finish that with --resume alone"):
            grown(data, place, resume=True, **other)
    with pytest.raises(StoreIncompleteError, match="finish that with --resume"):
        grown(data, place, add_views=2, policy="moco-v2")
    grown(data, place, add_views=2, part="2/2", resume=True)
    store = open_store(place)
    assert (store.is_complete, is_growing(store.attributes), len(store["train"].views)) == (True, False, 4)
    before = files(place)
    for again in ({"add_views": 2}, {"add_views": 2, "policy": "moco-v2"}, {"add_images": True}, {}):
        grown(data, place, resume=True, **again)
        assert files(place) == before
    for other in ({"add_views": 1}, {"add_views": 2, "policy": "crop-flip"}, {"add_views": 2, "split": ("val",)}):
        with pytest.raises(InputError, match="there is nothing to resume"):
            grown(data, place, resume=True, **other)
    shutil.copy(data / "train/apple/000.png", data / "train/apple/later.png")
    with pytest.raises(StoreMismatchError, match=r"'apple/later\.png' first; leave --resume out to append them"):
        grown(data, place, add_images=True, resume=True)
    assert files(place) == before


def test_ten_crops_are_all_there_are_but_random_views_may_follow(
    data: Path, tmp_path: Path, embedded: Embedded, grown: Embedded
) -> None:
    embedded(data, tmp_path / "store.zarr", views=10, policy="ten-crop", split=("val",), block_rows=4)
    with pytest.raises(
        InputError, match="has the ten crops, and there are no more of them; give the --policy of more views"
    ):
        grown(data, tmp_path / "store.zarr", add_views=1)
    store = grown(data, tmp_path / "store.zarr", add_views=1, policy="crop-flip")
    assert [view["policy"]["name"] for view in store["val"].views][9:] == ["ten-crop", "ten-crop", "crop-flip"]
    shutil.copy(data / "val/apple/000.png", data / "val/apple/later.png")
    assert len(grown(data, store.path, add_images=True)["val"]) == 9
