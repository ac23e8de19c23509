"""The table of results, from files as the evaluations write them."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError
from pipeline.report.table import results_table


def result(
    folder: Path, name: str, nearest: dict[int | None, float], votes: dict[tuple[int, float], float] | None = None
) -> Path:
    record: dict[str, Any] = {
        "evaluation": "nearest neighbour",
        "network": {"name": name, "architecture": "conv4-16"},
        "results": [{"labels_per_class": count, "top1_percent": value} for count, value in nearest.items()],
    }
    if votes is not None:
        record["weighted_knn"] = [
            {"neighbours": count, "temperature": temperature, "top1_percent": value}
            for (count, temperature), value in votes.items()
        ]
    path = folder / f"{name}.json"
    path.write_text(json.dumps(record))
    return path


def test_columns_are_nn_then_votes_then_few_labels_each_by_number(tmp_path: Path) -> None:
    one = result(tmp_path, "one", {None: 51.26, 10: 30.0, 2: 20.0}, {(200, 0.07): 55.0, (20, 0.07): 54.04})
    table = results_table([one])
    assert table.columns == (
        "network", "architecture", "NN", "k-NN 20", "k-NN 200", "NN, 2 labels a class", "NN, 10 labels a class",
    )  # fmt: skip
    assert table.rows == [("one", "conv4-16", "51.3", "54.0", "55.0", "20.0", "30.0")]


def test_rows_are_in_the_order_given_and_empty_where_nothing_was_scored(tmp_path: Path) -> None:
    paths = [
        result(tmp_path, "small", {None: 100.0, 5: 0.0}, {}),
        result(tmp_path, "large", {None: 40.0}, {(20, 0.07): 41.0}),
        result(tmp_path, "before", {None: 12.345}),  # written by a release that had no weighted k-NN
    ]
    table = results_table(paths)
    assert table.columns == ("network", "architecture", "NN", "k-NN 20", "NN, 5 labels a class")
    assert table.rows == [
        ("small", "conv4-16", "100.0", "", "0.0"),
        ("large", "conv4-16", "40.0", "41.0", ""),
        ("before", "conv4-16", "12.3", "", ""),
    ]
    assert [row[0] for row in results_table(reversed(paths)).rows] == ["before", "large", "small"]


def test_votes_of_several_temperatures_are_columns_of_their_own(tmp_path: Path) -> None:
    paths = [
        result(tmp_path, "one", {None: 1.0}, {(20, 0.07): 2.0, (20, 0.1): 3.0}),
        result(tmp_path, "two", {None: 1.0}, {(200, 0.1): 4.0}),
    ]
    table = results_table(paths)
    assert table.columns[3:] == ("k-NN 20, T 0.07", "k-NN 20, T 0.1", "k-NN 200, T 0.1")
    assert [row[3:] for row in table.rows] == [("2.0", "3.0", ""), ("", "", "4.0")]


def test_no_result_is_a_table_without_rows() -> None:
    assert results_table([]).rows == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "cannot be read"),
        ('{"network": {"name": "a"', "cannot be read"),
        ("\xff", "cannot be read"),
        ("[]", "is not the result of a nearest-neighbour evaluation; run it again"),
        ('{"network": {"name": "a"}}', "is not the result of a nearest-neighbour evaluation; run it again"),
        ('{"network": {"name": "a", "architecture": "b"}, "results": [3]}', "is not the result of a nearest-neighbour"),
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
