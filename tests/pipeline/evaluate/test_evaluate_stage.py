"""The stage: a teacher from its store, a student from its own; what is kept, what is computed again."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress, Silent
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.evaluate.run import Evaluated, evaluate, evaluate_with_baselines
from compress_ssl.pipeline.evaluate.settings import KnnSettings
from compress_ssl.pipeline.networks.network import load_network, save_network
from compress_ssl.storage import open_store

MACHINE: dict[str, Any] = {"size": 16, "resize": 17, "device": "cpu", "threads": 1, "renderer": "torchvision"}


def store_of(data: Path) -> Path:
    store = data.parent / "teacher.zarr"
    given = {"split": ("train", "val:0"), "views": 1, "block_rows": 30, **MACHINE}
    embed(EmbedSettings(data=data, store=store, teacher="random/conv4-16", **given), Silent())
    return store


class Counting:
    """A progress bar that remembers how many views went through a network."""

    def __init__(self) -> None:
        self.views = 0

    @contextlib.contextmanager
    def track(self, title: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
        def advance(amount: int) -> None:
            self.views += amount if title == "embed" else 0

        yield advance


def score(model: Path | str, progress: Progress | None = None, **given: Any) -> Evaluated:
    values = {**MACHINE, **given}
    values = {name: value for name, value in values.items() if value is not None}
    return evaluate(KnnSettings(model=str(model), **values), progress or Silent())


def run_of(data: Path, seed: int = 0) -> Path:
    folder = data.parent / "student"
    folder.mkdir(exist_ok=True)
    save_network(folder / MODEL_FILE, load_network("random/conv4-16", seed))
    return folder


def scored_by_hand(store: Path) -> float:
    """Top-1 in percent of the store's view 0, one pair at a time."""
    train, test = (open_store(store)[name] for name in ("train", "val"))
    bank, queries = train.view(0).astype(np.float64), test.view(0).astype(np.float64)
    right = 0
    for query, label in zip(queries, test.samples.label, strict=True):
        cosines = [float(query @ row / (np.linalg.norm(query) * np.linalg.norm(row))) for row in bank]
        right += train.samples.label[cosines.index(max(cosines))] == label
    return 100 * right / len(queries)


def test_teacher_is_scored_from_its_store_with_no_image_left(data: Path, teacher: Path) -> None:
    shutil.rmtree(data)
    shutil.rmtree(data.parent / "index")
    evaluation = score(teacher, neighbours=(5,), labels_per_class=(2,), draws=3, size=None, resize=None)
    assert evaluation.result.nearest[0].top1_percent == pytest.approx(scored_by_hand(teacher))
    assert evaluation.path == data.parent / "teacher.zarr.evaluation" / "nearest-neighbour.json"
    assert sorted(path.name for path in data.parent.iterdir()) == ["teacher.zarr", "teacher.zarr.evaluation"]


def test_store_of_images_decoded_smaller_is_not_compared_in_silence(
    data: Path, teacher: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    score(teacher, size=None, resize=None)
    assert "decoded smaller" not in caplog.text
    given = {"split": ("train", "val:0"), "views": 1, "scaled_decoding": True, **MACHINE}
    embed(EmbedSettings(data=data, store=tmp_path / "scaled.zarr", teacher="random/conv4-16", **given), Silent())
    score(tmp_path / "scaled.zarr", size=None, resize=None)
    assert "networks are scored on images decoded whole" in caplog.text


def test_result_file_says_all_that_was_scored(teacher: Path) -> None:
    evaluation = score(teacher, neighbours=(20, 5), labels_per_class=(2, 7), draws=3, knn_temperature=0.1)
    record = json.loads(evaluation.path.read_text())
    nearest, weighted = record["result"]["nearest"], record["result"]["weighted"]
    assert [result["labels_per_class"] for result in nearest] == [None, 2, 7]
    assert [len(result["draws"]) for result in nearest] == [1, 3, 3]
    assert [(vote["neighbours"], vote["temperature"]) for vote in weighted] == [(5, 0.1), (20, 0.1)]
    assert nearest == [result.model_dump(mode="json") for result in evaluation.result.nearest]
    assert weighted == [vote.model_dump(mode="json") for vote in evaluation.result.weighted]
    assert record["scores"] == {
        "NN": nearest[0]["top1_percent"],
        "k-NN 5, T 0.1": weighted[0]["top1_percent"],
        "k-NN 20, T 0.1": weighted[1]["top1_percent"],
        "NN, 2 labels a class": nearest[1]["top1_percent"],
        "NN, 7 labels a class": nearest[2]["top1_percent"],
    }
    assert record["network"]["architecture"] == "conv4-16"
    assert (record["train_split"], record["test_split"]) == ("train", "val")
    assert record["evaluation"] == "knn"
    assert record["settings"]["draws"] == 3
    assert record["seconds"] >= 0


def test_student_has_the_score_of_the_same_network_as_a_teacher(data: Path, teacher: Path) -> None:
    expected = score(teacher, neighbours=(5, 20)).result
    student = score(run_of(data), data=data, neighbours=(5, 20))
    assert student.result.nearest == expected.nearest
    assert student.result.weighted == expected.weighted
    assert student.path == data.parent / "student" / "nearest-neighbour.json"


def test_features_of_a_student_are_a_store_that_is_computed_once(data: Path) -> None:
    run, progress = run_of(data), Counting()
    first = score(run, progress, data=data)
    store = open_store(run / "features.zarr")
    assert {name: store[name].view(0).shape for name in store.split_names} == {"train": (30, 16), "val": (12, 16)}
    assert progress.views == 42
    again = score(run, progress, data=data, labels_per_class=(3,))
    assert progress.views == 42
    assert again.result.nearest[0] == first.result.nearest[0]
    assert [result.labels_per_class for result in again.result.nearest] == [None, 3]


def test_automatic_renderer_is_always_the_same(data: Path) -> None:
    """What is computed once must not depend on a trial, whose winner may be another one tomorrow."""
    run, progress = run_of(data), Counting()
    automatic = score(run, progress, data=data, renderer="auto")
    assert open_store(run / "features.zarr").attributes["rendering"]["renderer"] == "dali"
    assert score(run, progress, data=data, renderer="dali").result == automatic.result
    assert progress.views == 42


def test_changed_weights_are_computed_again(data: Path) -> None:
    run, progress = run_of(data, seed=0), Counting()
    score(run, progress, data=data, limit=10)
    old = open_store(run / "features.zarr")["val"].view(0)
    run_of(data, seed=1)
    score(run, progress, data=data, limit=10)
    assert progress.views == 2 * 20
    new = open_store(run / "features.zarr")["val"].view(0)
    assert (old != new).any(axis=1).all()


def test_changed_images_are_computed_again(data: Path) -> None:
    run = run_of(data)
    score(run, data=data)
    old = open_store(run / "features.zarr")["val"].view(0)
    shutil.copy(data / "train" / "pear" / "00.png", data / "val" / "pear" / "00.png")
    score(run, data=data)
    new = open_store(run / "features.zarr")["val"].view(0)
    assert (old != new).any(axis=1).tolist() == [row == 6 for row in range(12)]
    np.testing.assert_array_equal(new[6], open_store(run / "features.zarr")["train"].view(0)[15])


def test_second_dataset_does_not_replace_the_result_on_the_first(data: Path) -> None:
    run, other = run_of(data), data.parent / "other"
    first = score(run, data=data)
    content = first.path.read_bytes()
    shutil.copytree(data, other)
    shutil.rmtree(other / "val" / "pear")
    shutil.copytree(data / "train" / "pear", other / "val" / "pear")
    second = score(run, data=other)
    assert second.path == run / "other" / first.path.name
    assert json.loads(second.path.read_bytes())["data_set"]["name"] == "other"
    assert first.path.read_bytes() == content
    assert score(run, data=data).path == first.path
    with pytest.raises(InputError, match=r"nearest-neighbour\.json' is a result on data, which one on other would"):
        score(run, data=other, output=run)
    assert first.path.is_file()


def test_output_that_cannot_be_written_is_named_before_anything_is_computed(data: Path, teacher: Path) -> None:
    (data.parent / "file").write_text("in the way")
    for model in (teacher, run_of(data)):
        counting = Counting()
        with pytest.raises(InputError, match=r"^Nothing can be written into '.*file/out' \(.+\); .* with --output\.$"):
            score(model, counting, data=data, output=data.parent / "file" / "out", index_folder=data.parent / "index")
        assert counting.views == 0


def test_store_is_not_scored_as_if_its_images_were_selected(data: Path, teacher: Path) -> None:
    with pytest.raises(InputError, match=r"Split train of .* has 30 images, others than --limit 10 selects"):
        score(teacher, limit=10)
    listed = data.parent / "list.txt"
    listed.write_text("train/apple/00.png\ntrain/pear/00.png\n")
    with pytest.raises(InputError, match=r"Split train of .* has 30 images, others than --subset selects"):
        score(teacher, subset=listed)
    assert score(teacher, limit=30).result.nearest[0].train_images == 30


def test_baselines_of_a_store_are_scored_on_its_images(data: Path) -> None:
    store, given = data.parent / "few.zarr", {"split": ("train", "val:0"), "views": 1, "limit": 8, **MACHINE}
    embed(EmbedSettings(data=data, store=store, teacher="random/conv4-16", **given), Silent())
    settings = KnnSettings(model=str(store), data=data, neighbours=(), **{**MACHINE, "size": None, "resize": None})
    teacher, baseline = evaluate_with_baselines(settings, ["random"], Silent())
    assert baseline.result == teacher.result  # the same network, untrained
    assert (teacher.result.nearest[0].train_images, teacher.result.nearest[0].test_images) == (8, 8)


def test_defaults_that_are_more_than_the_images_are_left_out_and_said(
    teacher: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    evaluation = score(teacher)
    assert [vote.neighbours for vote in evaluation.result.weighted] == [20]
    assert "There are 30 training images; k-NN 200 is left out." in caplog.text


def test_neighbours_asked_for_that_are_more_than_the_images_are_an_error(teacher: Path) -> None:
    with pytest.raises(InputError, match="--neighbours 31 is more than the 30 training images of split train; give"):
        score(teacher, neighbours=(5, 31))
    assert [vote.neighbours for vote in score(teacher, neighbours=(30,)).result.weighted] == [30]
    assert score(teacher, neighbours=()).result.weighted == ()


def test_network_whose_weights_are_not_finite_is_not_scored(data: Path) -> None:
    run = run_of(data)
    network = load_network("random/conv4-16")
    with torch.no_grad():
        next(network.module.parameters()).fill_(torch.nan)
    save_network(run / MODEL_FILE, network)
    with pytest.raises(ValueError, match=r"The weights '0.weight' in .* are not finite"):
        score(run, data=data)
    assert not (run / "nearest-neighbour.json").exists()


def test_splits_of_other_classes_are_refused_before_anything_is_computed(data: Path) -> None:
    (data / "val" / "pear").rename(data / "val" / "plum")
    sentence = r"Splits train and val have different classes \('pear' is in one only\)"
    progress = Counting()
    with pytest.raises(InputError, match=sentence):
        score(run_of(data), progress, data=data)
    assert progress.views == 0
    with pytest.raises(InputError, match=sentence):
        score(store_of(data))


def test_images_without_labels_are_refused_before_anything_is_computed(data: Path) -> None:
    for split in ("train", "val"):
        for file in sorted((data / split).glob("*/*.png")):
            file.rename(data / split / f"{file.parent.name}{file.name}")
        for folder in ("apple", "pear"):
            (data / split / folder).rmdir()
    sentence = "The training image in row 0 has no label, and the evaluation needs one; sort the images "
    sentence += "into one folder per class, or give --labels"
    progress = Counting()
    with pytest.raises(InputError, match=sentence):
        score(run_of(data), progress, data=data)
    assert progress.views == 0
    with pytest.raises(InputError, match=sentence):
        score(store_of(data))


def test_images_that_could_not_be_read_are_not_scored(data: Path) -> None:
    (data / "train" / "apple" / "03.png").write_bytes(b"nothing")
    (data / "val" / "pear" / "01.png").write_bytes(b"nothing")
    run = run_of(data)
    result = score(run, data=data, on_bad_image="skip").result.nearest[0]
    assert (result.train_images, result.test_images) == (29, 11)
