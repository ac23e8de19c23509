"""Classification on VOC: against the benchmark's own steps in scikit-learn, and the stage on small images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.evaluate.run import evaluate
from compress_ssl.pipeline.evaluate.settings import VocClassifySettings
from compress_ssl.pipeline.evaluate.voc.classify import (
    MultiLabelFeatures,
    class_labels,
    class_precision,
    unusable_classes,
)
from compress_ssl.pipeline.images.sources.voc import Annotation

COSTS = (0.01, 1.0, 10.0)


def settings_of(model: str, data: Path | None, folder: Path, **given: Any) -> VocClassifySettings:
    values: dict[str, Any] = {
        "output": folder, "size": 32, "resize": 32, "device": "cpu", "threads": 1, "renderer": "torchvision",
        "cost": COSTS,
    }  # fmt: skip
    return VocClassifySettings(model=model, data=data, **{**values, **given})


def test_marks_are_those_of_voc() -> None:
    def annotation(*objects: tuple[str, bool]) -> Annotation:
        names, difficult = zip(*objects, strict=True) if objects else ((), ())
        return Annotation(names, np.ones((len(names), 4)), np.array(difficult, bool))

    annotations = [annotation(), annotation(("cat", True)), annotation(("cat", True), ("dog", False), ("cat", False))]
    assert class_labels(annotations, ["cat", "dog"]).tolist() == [[-1, -1], [0, -1], [1, 1]]


def test_classes_that_cannot_be_learnt_or_scored_are_named_with_the_reason() -> None:
    train = np.array([[1, 1, 1, -1]] * 3 + [[-1, 1, -1, 0]] * 2 + [[-1, -1, -1, -1]], np.int8)
    test = np.array([[1, 1, 0, 1], [-1, -1, -1, -1]], np.int8)
    reasons = unusable_classes(train, test, ["kept", "on all but one", "not in test", "difficult only"])
    assert list(reasons) == ["on all but one", "not in test", "difficult only"]
    assert reasons["on all but one"].startswith(
        "Its positives or its negatives are only 1 training images, fewer than the 3 folds"
    )
    assert reasons["not in test"] == "No test image shows it."
    assert reasons["difficult only"].startswith("Its positives or its negatives are only 0 training images")


def eleven_points(scores: npt.NDArray[np.float64], present: npt.NDArray[np.bool_]) -> float:
    """By the definition: at each recall, the best precision of a threshold that reaches it."""
    curve = [((present & (scores >= t)).sum(), (scores >= t).sum()) for t in scores]
    best = [max((right / shown for right, shown in curve if right * 10 >= point * present.sum()), default=0)
            for point in range(11)]  # fmt: skip
    return float(np.mean(best))


def test_one_class_is_what_the_benchmarks_steps_give() -> None:
    generator = np.random.default_rng(0)
    marks = generator.choice(np.array([-1, 0, 1], np.int8), (150, 1), p=[0.6, 0.1, 0.3])
    features = generator.normal(size=(150, 12)) + 0.5 * (marks != -1)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    train, test = (MultiLabelFeatures(features[part], marks[part]) for part in (slice(90), slice(90, None)))
    ours = class_precision("class", train, test, 0, COSTS, seed=0)

    counted = marks[:90, 0] != 0
    x, y = features[:90][counted], np.where(marks[:90, 0][counted] == 1, 1, -1)

    def machine(cost: float) -> LinearSVC:
        return LinearSVC(C=cost, class_weight={1: 2, -1: 1}, dual=True, max_iter=2000, tol=1e-4, random_state=0)

    precisions = [cross_val_score(machine(cost), x, y, cv=3, scoring="average_precision").mean() for cost in COSTS]
    assert ours.cost == COSTS[int(np.argmax(precisions))]
    counted = marks[90:, 0] != 0
    scores = machine(ours.cost).fit(x, y).decision_function(features[90:][counted])
    expected = eleven_points(scores, marks[90:, 0][counted] == 1)
    assert ours.average_precision_percent == pytest.approx(100 * expected, abs=1e-9)
    assert 30 < ours.average_precision_percent < 100
    assert (ours.train_positives, ours.test_positives) == ((marks[:90] == 1).sum(), (marks[90:] == 1).sum())


def test_stage_tells_red_squares_from_blue_ones_and_writes_what_it_found(voc: Path, tmp_path: Path) -> None:
    evaluated = evaluate(settings_of("random/conv4-64", voc, tmp_path / "out"), Silent())
    written = json.loads(evaluated.path.read_bytes())
    assert evaluated.path == tmp_path / "out" / "voc-classify.json"
    assert written["result"]["left_out"] == {}
    assert [each["name"] for each in written["result"]["classes"]] == ["blue", "red"]
    assert written["scores"] == {"VOC classification": written["result"]["mean_average_precision_percent"]}
    # 2 to 5 of the 8 test images show a class; by chance its average precision would be about as many eighths.
    assert written["result"]["mean_average_precision_percent"] > 75
    assert (written["result"]["train_images"], written["result"]["test_images"]) == (24, 8)


@pytest.mark.slow
def test_two_processes_find_the_same(voc: Path, tmp_path: Path) -> None:
    alone, two = (
        evaluate(settings_of("random/conv4-16", voc, tmp_path / "out", threads=count), Silent()).result
        for count in (1, 2)
    )
    assert alone == two


def test_teacher_is_scored_from_its_store_by_embeddings_or_by_means_of_patches(voc: Path, tmp_path: Path) -> None:
    network = evaluate(settings_of("random/conv4-16", voc, tmp_path / "out"), Silent()).result
    store = tmp_path / "teacher.zarr"
    embed(
        EmbedSettings(
            data=voc, store=store, teacher="random/conv4-16", split=("trainval:0", "test:0"), size=32, resize=32,
            device="cpu", threads=1, renderer="torchvision", patches=16,
        ),
        Silent(),
    )  # fmt: skip
    teacher = evaluate(settings_of(str(store), voc, tmp_path / "teacher"), Silent()).result
    means = evaluate(settings_of(str(store), voc, tmp_path / "means", patch_mean=True), Silent()).result
    for ours, its, mean in zip(network.classes, teacher.classes, means.classes, strict=True):
        assert its.average_precision_percent == pytest.approx(ours.average_precision_percent, abs=1)
        assert mean.average_precision_percent == pytest.approx(ours.average_precision_percent, abs=1)
    with pytest.raises(InputError, match="--data is needed for the annotations of the images"):
        evaluate(settings_of(str(store), None, tmp_path / "teacher"), Silent())


def test_classes_with_too_few_images_leave_nothing_to_score(voc: Path, tmp_path: Path) -> None:
    (voc / "ImageSets" / "Main" / "test.txt").write_text("000024\n")  # no object is on it
    with pytest.raises(
        InputError, match=r"None of the 2 classes of '.*voc' has enough images both to train on in split trainval and"
    ):
        evaluate(settings_of("random/conv4-16", voc, tmp_path / "out"), Silent())


def test_data_of_another_layout_end_before_the_features(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no folder JPEGImages; give a dataset in VOC's layout"):
        evaluate(settings_of("random/conv4-16", data, tmp_path / "out"), Silent())
    assert not (tmp_path / "out").exists()
