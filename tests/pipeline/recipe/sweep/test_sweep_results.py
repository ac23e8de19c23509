"""Rows, groups over seeds, CSV and figures, from cells made up here; statistics against numpy."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress_ssl.pipeline.evaluate.results_table import ScoredImages
from compress_ssl.pipeline.recipe.sweep.expand import Cell
from compress_ssl.pipeline.recipe.sweep.figures import draw_figures
from compress_ssl.pipeline.recipe.sweep.results import Row, as_csv, as_record, group_rows, sweep_table

TEMPERATURES, SEEDS = (0.02, 0.04, 0.4), range(5)


def row(table: str, status: str = "finished", scores: dict[str, float] | None = None, **values: Any) -> Row:
    name = ",".join((table, *(f"{key}={value}" for key, value in values.items())))
    reason = "The loss is not a number." if status == "failed" else ""
    images = {heading: ScoredImages("pets", 1200, 400, ("", "", "")) for heading in scores or {}}
    return Row(Cell(name, table, values), status, reason, 3.5, 2, scores or {}, images)


@pytest.fixture
def rows() -> list[Row]:
    generator = np.random.default_rng(0)
    return [
        row("teacher", scores={"NN": 50.0, "Linear": 60.0}),
        *(
            row("2q", temperature=t, seed=s, scores={"NN": generator.normal(40, 2), "Linear": generator.normal(50, 2)})
            for t in TEMPERATURES
            for s in SEEDS
        ),
        row("reg", temperature=0.02, seed=0, scores={"NN": 30.0}),
        row("reg", temperature=0.02, seed=1, status="failed"),
        row("lost", status="failed"),
    ]


def test_groups_are_the_mean_and_sample_deviation_over_seeds(rows: list[Row]) -> None:
    groups = group_rows(rows)
    assert [(group.table, group.values) for group in groups] == [
        ("teacher", {}),
        *(("2q", {"temperature": t}) for t in TEMPERATURES),
        ("reg", {"temperature": 0.02}),
        ("lost", {}),
    ]
    for group in groups[1:4]:
        for heading in ("NN", "Linear"):
            found = [
                row.scores[heading]
                for row in rows
                if row.cell.table == "2q" and row.cell.values["temperature"] == group.values["temperature"]
            ]
            mean, deviation, number = group.scores[heading]
            assert number == group.networks == 5
            assert mean == pytest.approx(np.mean(found))
            assert deviation == pytest.approx(np.std(found, ddof=1))
    assert groups[0].scores["NN"] == (50.0, None, 1)
    assert (groups[4].networks, groups[4].failed, groups[4].scores["NN"]) == (2, 1, (30.0, None, 1))


def test_table_says_what_failed_and_leaves_no_silent_gap(rows: list[Row]) -> None:
    table = sweep_table(rows, group_rows(rows))
    assert table.columns == ("networks", "runs", "NN", "Linear")
    cells = {line[0]: line[1:] for line in table.rows}
    assert cells["teacher"] == ("1", "50.0", "60.0")
    assert cells["reg, temperature 0.02"] == ("1 of 2, 1 failed", "30.0", "")
    assert cells["lost"] == ("0 of 1, 1 failed", "", "")
    mean, deviation, _ = group_rows(rows)[1].scores["NN"]
    assert cells["2q, temperature 0.02"][1] == f"{mean:.1f} ± {deviation:.1f}"
    assert table.notes == ("Of 400 test images and 1,200 training images of pets.",)
    rows[0].images["NN"] = ScoredImages("pets", 200, 200, ("", "", ""))
    assert "NN is of different images, and cannot be compared between them." in sweep_table(rows, []).notes[1]


def test_csv_has_a_line_a_network(rows: list[Row]) -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert (line["name"], line["table"], line["status"], line["reason"]) == (
            row.cell.name, row.cell.table, row.status, row.reason,
        )  # fmt: skip
        assert {key: float(line[key]) for key in ("NN", "Linear") if line[key]} == row.scores
        assert line["temperature"] == str(row.cell.values.get("temperature", ""))
        assert float(line["seconds"]) == 3.5
        assert line["images"] == ("Of 400 test images and 1,200 training images of pets." if row.scores else "")


def test_record_holds_rows_and_groups(rows: list[Row]) -> None:
    record = as_record(rows, group_rows(rows))
    assert [each["status"] for each in record["networks"]].count("failed") == 2
    assert record["networks"][0]["images"]["NN"] == {"data_set": "pets", "train_images": 1200, "test_images": 400}
    assert record["groups"][4] == {
        "table": "reg", "values": {"temperature": 0.02}, "networks": 2, "finished": 1, "failed": 1,
        "scores": {"NN": {"mean": 30.0, "standard_deviation": None, "networks": 1}},
    }  # fmt: skip


def inked(path: Path) -> float:
    """Share of the picture that is not white."""
    with Image.open(path) as picture:
        return float((np.asarray(picture.convert("L")) < 250).mean())


def test_a_line_looks_the_same_in_every_panel(tmp_path: Path) -> None:
    only_nn = [row("reg", temperature=t, scores={"NN": 40.0}) for t in TEMPERATURES]
    both = [row("2q", temperature=t, scores={"NN": 50.0, "Linear": 60.0}) for t in TEMPERATURES]
    (path,) = draw_figures(group_rows([*only_nn, *both]), tmp_path)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    height, width, _ = pixels.shape
    linear = pixels[: int(0.85 * height), width // 2 :].reshape(-1, 3)  # without the legend
    blue, orange = (31, 119, 180), (255, 127, 14)  # the first two of tab10
    assert [bool((np.abs(linear - colour) < 4).all(axis=1).any()) for colour in (blue, orange)] == [False, True]


def test_a_figure_for_each_field_with_two_values(rows: list[Row], tmp_path: Path) -> None:
    text = [row("2q", student=name, temperature=0.02, seed=0, scores={"NN": 20.0}) for name in ("conv4-16", "conv4-32")]
    written = draw_figures(group_rows([*rows, *text]), tmp_path)
    assert sorted(path.name for path in written) == ["student.png", "temperature.png"]
    assert all(0.01 < inked(path) < 0.5 for path in written)
    alone = [row("2q", temperature=0.02, seed=seed, scores={"NN": 20.0}) for seed in (0, 1)]
    assert draw_figures(group_rows(alone), tmp_path) == []
    failed = [row("2q", temperature=t, status="failed") for t in (0.02, 0.04)]
    assert draw_figures(group_rows(failed), tmp_path) == []
