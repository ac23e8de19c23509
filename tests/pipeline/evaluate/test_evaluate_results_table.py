"""The table of results, from files as the evaluations write them."""

import json
from pathlib import Path
from typing import Any

import pytest

from compress_ssl.pipeline.evaluate.results_table import results_table
from compress_ssl.storage.errors import StoreError


def result(folder: Path, name: str, scores: dict[str, float], evaluation: str = "knn", **more: Any) -> Path:
    record = {"evaluation": evaluation, "network": {"name": name, "architecture": "conv4-16"}, "scores": scores, **more}
    path = folder / f"{name}-{evaluation}.json"
    path.write_text(json.dumps(record))
    return path


def test_columns_are_the_scores_in_the_order_in_which_they_first_appear(tmp_path: Path) -> None:
    paths = [
        result(tmp_path, "small", {"NN": 51.26, "k-NN 20": 54.04}),
        result(tmp_path, "large", {"NN": 12.345, "NN, 2 labels a class": 20.0, "k-NN 20": 100.0}),
    ]
    table = results_table(paths)
    assert table.columns == ("network", "architecture", "NN", "k-NN 20", "NN, 2 labels a class")
    assert table.rows == [("small", "conv4-16", "51.3", "54.0", ""), ("large", "conv4-16", "12.3", "100.0", "20.0")]
    assert [row[0] for row in results_table(reversed(paths)).rows] == ["large", "small"]


def test_evaluations_of_one_network_are_one_row(tmp_path: Path) -> None:
    paths = [
        result(tmp_path, "small", {"NN": 1.0}),
        result(tmp_path, "small", {"Linear": 2.0, "Linear top-5": 3.0}, "linear"),
        result(tmp_path, "large", {"Linear": 4.0}, "linear"),
    ]
    table = results_table(paths)
    assert table.columns[2:] == ("NN", "Linear", "Linear top-5")
    assert table.rows == [("small", "conv4-16", "1.0", "2.0", "3.0"), ("large", "conv4-16", "", "4.0", "")]


def test_one_evaluation_of_two_networks_of_one_name_is_two_rows(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    paths = [result(tmp_path, "student", {"NN": 1.0}), result(tmp_path / "other", "student", {"NN": 2.0})]
    assert [row[2] for row in results_table(paths).rows] == ["1.0", "2.0"]


def scored(train: int, test: int, content: str = "") -> dict[str, Any]:
    prints = {"train": content, "val": content} if content else {}
    return {
        "data_set": {"name": "fruit", "fingerprint": prints},
        "train_split": "train",
        "test_split": "val",
        "result": {"nearest": [{"train_images": train, "test_images": test}]},
    }


def test_table_says_once_what_images_all_its_scores_are_of(tmp_path: Path) -> None:
    paths = [
        result(tmp_path, "small", {"NN": 1.0, "k-NN 20": 2.0}, **scored(1200, 400, "a")),
        result(tmp_path, "large", {"NN": 3.0}, **scored(1200, 400)),  # an older result, without a fingerprint
    ]
    assert results_table(paths).notes == ("Of 400 test images and 1,200 training images of fruit.",)


def test_same_images_under_two_names_are_the_same(tmp_path: Path) -> None:
    packed = scored(1200, 400, "a")
    packed["data_set"]["name"] = "fruit.h5"
    paths = [
        result(tmp_path, "small", {"NN": 1.0}, **scored(1200, 400, "a")),
        result(tmp_path, "large", {"NN": 2.0}, **packed),
    ]
    assert results_table(paths).notes == ("Of 400 test images and 1,200 training images of fruit.",)


def test_an_old_result_of_unknown_images_does_not_hide_that_two_others_differ(tmp_path: Path) -> None:
    paths = [result(tmp_path, f"of-{each}", {"NN": 1.0}, **scored(1200, 400, each)) for each in ("", "a", "b")]
    (note,) = results_table(paths).notes
    assert "NN is of different images" in note


def test_table_says_which_scores_are_of_other_images(tmp_path: Path) -> None:
    few = {"test_images": 400, "subsets": [{"subset": "1 %", "train_images": 12}]}
    paths = [
        result(tmp_path, "small", {"NN": 1.0}, **scored(1200, 400)),
        result(tmp_path, "small", {"1 % labels": 1.0}, "low-shot", **(scored(1200, 400) | {"result": few})),
    ]
    assert results_table(paths).notes == (
        "NN: of 400 test images and 1,200 training images of fruit.",
        "1 % labels: of 400 test images and 12 training images of fruit.",
    )


@pytest.mark.parametrize("other", [scored(200, 200, "a"), scored(1200, 400, "b")])
def test_table_says_that_scores_of_different_images_cannot_be_compared(tmp_path: Path, other: dict[str, Any]) -> None:
    paths = [result(tmp_path, "large", {"NN": 3.0}, **scored(1200, 400, "a"))]
    paths.append(result(tmp_path, "small", {"NN": 1.0}, **other))
    (note,) = results_table(paths).notes
    assert "NN is of different images, and cannot be compared between them." in note
    assert "400 test images and 1,200 training images of fruit: large; " in note
    assert note.endswith(": small.")


def test_no_result_is_a_table_without_rows() -> None:
    assert results_table([]).rows == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not valid JSON"),
        ('{"network": {"name": "a"', "is not valid JSON"),
        ("\xff", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "holds something else (Input should be an object); run the evaluation again."),
        ('{"network": {"name": "a"}}', "lacks 'network.architecture'; run the evaluation again."),
        ('{"network": {"name": "a", "architecture": "b"}, "scores": [3]}', "has a wrong scores"),
        ('{"network": {"name": "a", "architecture": "b"}, "scores": {"NN": "much"}}', "has a wrong scores.NN"),
        ('{"network": {"name": "a", "architecture": "b"}, "scores": {"NN": NaN}}', "has a wrong scores.NN"),
        ('{"network": {"name": "a", "architecture": "b"}, "scores": {}, "result": 5}', "has a wrong result"),
        (
            '{"network": {"name": "a", "architecture": "b"}, "scores": {}, "result": {"subsets": [5]}}',
            "has a wrong result.subsets.0",
        ),
    ],
)
def test_file_that_is_no_result_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "nearest-neighbour.json"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(StoreError, match=r"nearest-neighbour\.json") as caught:
        results_table([path])
    assert sentence in str(caught.value)
