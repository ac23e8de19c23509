"""Low-shot: which images keep their labels, and that only they are learned from."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.evaluate.linear.batches import StoredViews
from compress_ssl.pipeline.evaluate.linear.classifier import (
    accuracy,
    fit_standardisation,
    initial_state,
    train_classifiers,
)
from compress_ssl.pipeline.evaluate.linear.low_shot import balanced_subset, listed_subset
from compress_ssl.pipeline.evaluate.run import Evaluated, evaluate
from compress_ssl.pipeline.evaluate.settings import LowShotSettings
from compress_ssl.storage import open_store

MACHINE: dict[str, Any] = {"size": 16, "resize": 17, "device": "cpu", "threads": 1, "renderer": "torchvision"}


def score(model: Path, **given: Any) -> Evaluated:
    quick = {"device": "cpu", "threads": 1, "epochs": 3, "views": 2, "classifier_batch_size": 4, "learning_rate": 0.1}
    return evaluate(LowShotSettings(model=str(model), **{**quick, **given}), Silent())


def test_one_percent_of_imagenet_is_12811_images_12_or_13_of_each_class() -> None:
    labels = np.random.default_rng(0).permutation(np.arange(1_281_167) % 1000).astype(np.int32)
    rows = balanced_subset(labels, 1, seed=0)
    counts = np.bincount(labels[rows], minlength=1000)
    assert len(rows) == len(set(rows.tolist())) == 12_811
    assert np.bincount(counts).tolist() == [0] * 12 + [189, 811]


def test_subsets_depend_on_the_seed_alone_and_small_classes_give_all_they_have() -> None:
    labels = np.repeat([0, 1, 2], [3, 50, 47]).astype(np.int32)
    rows = balanced_subset(labels, 30, seed=1)
    assert np.bincount(labels[rows]).tolist() == [3, 10, 10]
    np.testing.assert_array_equal(rows, balanced_subset(labels, 30, seed=1))
    assert rows.tolist() != balanced_subset(labels, 30, seed=2).tolist()


def test_a_class_that_would_get_no_label_is_refused() -> None:
    with pytest.raises(InputError, match=r"1 % of 100 training images is 1, fewer than the 2 classes; raise --percent"):
        balanced_subset(np.repeat([0, 1], 50), 1, 0)


def test_only_the_labelled_images_are_learned_from(teacher: Path) -> None:
    result = score(teacher, percent=(20.0,), seed=4).result
    split, test = (open_store(teacher)[name] for name in ("train", "val"))
    rows = balanced_subset(split.samples.label, 20, 4)
    assert len(rows) == 6
    settings = LowShotSettings(model="-", epochs=3, views=2, classifier_batch_size=4, seed=4)
    views = StoredViews(lambda view: split.view(view)[rows], 2, split.samples.label[rows])
    epochs = views.epochs(np.arange(6), 0, settings, "cpu", lambda images: None)
    classifiers = train_classifiers(
        epochs, fit_standardisation([split.view(0)[rows]]), initial_state(16, 2, 1, settings), [0.1], settings
    )
    expected = accuracy(classifiers, [[test.view(0)]], test.samples.label)
    assert result.subsets[0].train_images == 6
    assert [result.subsets[0].top1_percent] == expected.top1_percent


def test_each_share_is_scored_and_written(data: Path, teacher: Path) -> None:
    shutil.rmtree(data)
    evaluated = score(teacher, percent=(50.0, 10.0), lr_grid=())
    record = json.loads(evaluated.path.read_text())
    assert list(record["scores"]) == ["10 % labels", "50 % labels"]
    assert [each["train_images"] for each in record["result"]["subsets"]] == [3, 15]


def test_a_grid_is_chosen_from_on_labelled_images(teacher: Path) -> None:
    (subset,) = score(teacher, percent=(40.0,), lr_grid=(0.5, 0.001)).result.subsets
    assert set(subset.held_out_top1_percent) == {0.5, 0.001}
    assert subset.learning_rate in (0.5, 0.001)


def test_a_default_share_that_is_too_small_is_left_out_and_said(
    teacher: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert [each.subset for each in score(teacher).result.subsets] == ["10 %"]
    assert "There are 30 training images; 1 % of the labels are too few and left out." in caplog.text
    with pytest.raises(InputError, match="1 % of 30 training images is 0"):
        score(teacher, percent=(1.0, 10.0))


def listed(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "1percent.txt"
    file.write_text("\n".join(lines) + "\n")
    return file


PATHS = ["apple/n01_1.JPEG", "apple/n01_2.JPEG", "pear/n02_1.JPEG", "pear/n02_2.JPEG"]
LABELS = np.array([0, 0, 1, 1])


def test_images_are_listed_by_file_name_as_in_simclr_or_by_path(tmp_path: Path) -> None:
    file = listed(tmp_path, "n02_1.JPEG", "n01_2.JPEG", "n02_1.JPEG")
    assert listed_subset(file, PATHS, LABELS, ("apple", "pear")).tolist() == [1, 2]
    by_path = listed(tmp_path, "pear/n02_2.JPEG", "apple/n01_1.JPEG")
    assert listed_subset(by_path, PATHS, LABELS, ("apple", "pear")).tolist() == [0, 3]


def test_a_list_is_told_which_line_is_wrong(tmp_path: Path) -> None:
    names = ("apple", "pear")
    with pytest.raises(InputError, match=r"'n03_1.JPEG', in line 2 of '.*1percent.txt', is not among the training"):
        listed_subset(listed(tmp_path, "n01_1.JPEG", "n03_1.JPEG"), PATHS, LABELS, names)
    with pytest.raises(InputError, match=r"lists no image of class 'pear'; every class needs one"):
        listed_subset(listed(tmp_path, "n01_1.JPEG"), PATHS, LABELS, names)
    twice = ["apple/1.JPEG", "pear/1.JPEG"]
    with pytest.raises(InputError, match=r"'1.JPEG', in line 1 of '.*', is the name of 2 training images"):
        listed_subset(listed(tmp_path, "1.JPEG"), twice, np.array([0, 1]), names)


def test_a_listed_subset_is_named_after_its_file(teacher: Path, tmp_path: Path) -> None:
    file = listed(tmp_path, "apple/00.png", "apple/03.png", "pear/05.png")
    (subset,) = score(teacher, image_list=(file,)).result.subsets
    assert (subset.subset, subset.train_images) == ("1percent", 3)


def test_shares_and_lists_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--image-list and --percent both select the labelled images"):
        LowShotSettings(model="-", image_list=(tmp_path,), percent=(1.0,))


def test_bad_images_do_not_shift_the_rows(data: Path) -> None:
    (data / "train" / "apple" / "00.png").write_bytes(b"nothing")
    place = data.parent / "holes.zarr"
    given = {"split": ("train", "val:0"), "views": 2, "on_bad_image": "skip", "block_rows": 30, **MACHINE}
    embed(EmbedSettings(data=data, store=place, teacher="random/conv4-16", **given), Silent())
    file = listed(data.parent, "apple/01.png", "pear/00.png")
    (subset,) = score(place, image_list=(file,)).result.subsets
    split, test = (open_store(place)[name] for name in ("train", "val"))
    rows = [split.samples.sample_path.index(path) for path in ("apple/01.png", "pear/00.png")]
    settings = LowShotSettings(model="-", epochs=3, views=2, classifier_batch_size=4)
    views = StoredViews(lambda view: split.view(view)[rows], 2, np.array([0, 1]))
    epochs = views.epochs(np.arange(2), 0, settings, "cpu", lambda images: None)
    classifiers = train_classifiers(
        epochs, fit_standardisation([split.view(0)[rows]]), initial_state(16, 2, 1, settings), [0.1], settings
    )
    assert accuracy(classifiers, [[test.view(0)]], test.samples.label).top1_percent == [subset.top1_percent]
    assert torch.isfinite(classifiers.parameters).all()
