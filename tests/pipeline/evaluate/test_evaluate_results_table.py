"""The table of results, from files as the evaluations write them."""

import json
from pathlib import Path

import pytest

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.evaluate.results_table import results_table


def result(folder: Path, name: str, scores: dict[str, float], evaluation: str = "knn") -> Path:
    record = {"evaluation": evaluation, "network": {"name": name, "architecture": "conv4-16"}, "scores": scores}
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


def test_no_result_is_a_table_without_rows() -> None:
    assert results_table([]).rows == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "cannot be read"),
        ('{"network": {"name": "a"', "cannot be read"),
        ("\xff", "cannot be read"),
        ("[]", "is not the result of an evaluation; run it again"),
        ('{"network": {"name": "a"}}', "is not the result of an evaluation; run it again"),
        ('{"network": {"name": "a", "architecture": "b"}, "scores": [3]}', "is not the result of an evaluation"),
        ('{"network": {"name": "a", "architecture": "b"}, "scores": {"NN": "much"}}', "cannot be read"),
    ],
)
def test_file_that_is_no_result_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "nearest-neighbour.json"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(InputError, match=r"nearest-neighbour\.json") as caught:
        results_table([path])
    assert sentence in str(caught.value)


def test_result_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.json' cannot be read \(.*\); run the evaluation again\."):
        results_table([tmp_path / "missing.json"])
