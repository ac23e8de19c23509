"""``compress-ssl sweep``: cells that are ordinary runs, failures that stay alone, stops that cost nothing."""

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file

from tests.processes import start_command, wait_until

Call = Callable[..., Result]

RECIPE = """
folder = "out"
data = "data"
[settings]
size = 16
resize = 16
threads = 1
epochs = 2
batch_size = 8
[[pretrain]]
name = "scratch"
arch = "conv4-16"
[embed]
teacher = "random/conv4-32"
views = 2
[distill]
student = "conv4-16"
bank_size = 16
[distill.sweep]
seed = [0, 1]
[[student]]
name = "2q"
sweep = { learning_rate = [0.01, 0.1] }
[[student]]
name = "reg"
objective = "reg"
sweep = { learning_rate = [0.01, 1e30] }
[evaluate]
models = ["embed", "scratch", "2q", "reg"]
"""
CELLS = [f"{name},learning_rate={rate},seed={seed}" for name, rate, seed in (
    ("2q", 0.01, 0), ("2q", 0.01, 1), ("2q", 0.1, 0), ("2q", 0.1, 1),
    ("reg", 0.01, 0), ("reg", 0.01, 1), ("reg", 1e30, 0), ("reg", 1e30, 1),
)]  # fmt: skip
DIVERGING = CELLS[-2:]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, made: Path, call_module: Call) -> tuple[Path, Result]:
    """A finished sweep, two cells of which diverge, and what was said. Read it, never change it."""
    folder = tmp_path_factory.mktemp("swept")
    shutil.copytree(made / "data", folder / "data")
    (folder / "recipe.toml").write_text(RECIPE)
    before = Path.cwd()
    os.chdir(folder)
    try:
        return folder, call_module("sweep", "recipe.toml")
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def call_module() -> Call:
    from tests.cli.conftest import call

    return call


@pytest.fixture
def work(swept: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sweep to do as one likes with; the current folder."""
    shutil.copytree(swept[0], tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def table_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "out" / "sweep" / "results.csv").open() as file:
        return {line["name"]: line for line in csv.DictReader(file)}


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "out" / name / "model.safetensors")


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name


def test_cells_that_fail_are_shown_and_all_others_are_there(swept: tuple[Path, Result]) -> None:
    folder, result = swept
    assert result.exit_code == 1, result.output
    assert result.stderr.splitlines()[-1] == ("Error: 2 of 20 steps failed; the reasons are above and in the results.")
    assert "Traceback" not in result.output
    table = table_of(folder)
    assert list(table) == ["embed", "scratch", *CELLS]
    for name, line in table.items():
        assert line["status"] == ("failed" if name in DIVERGING else "finished")
        assert bool(line["NN"]) == (name not in DIVERGING)
        assert ("is no longer finite" in line["reason"]) == (name in DIVERGING)
        assert name not in line["reason"] or name in DIVERGING
    assert "0 of 2, 2 failed" in " ".join(result.stdout.replace("│", " ").split())
    assert [line["together"] for line in table.values()] == ["1", "1", *["4"] * 6, "", ""]
    assert sorted(path.name for path in (folder / "out" / "sweep").iterdir()) == [
        *("learning_rate.png", "results.csv", "results.json")
    ]


def test_a_cell_is_the_student_that_an_ordinary_recipe_makes(
    swept: tuple[Path, Result], work: Path, call: Call
) -> None:
    lists = RECIPE.index("[distill.sweep]"), RECIPE.index("[evaluate]")
    student = '[[student]]\nname = "alone"\nlearning_rate = 0.1\nseed = 1\n'
    plain = RECIPE[: lists[0]] + student + RECIPE[lists[1] :].replace('"scratch", "2q", "reg"', '"alone"')
    (work / "plain.toml").write_text(plain.replace('folder = "out"', 'folder = "plain"'))
    result = call("run", "plain.toml")
    assert result.exit_code == 0, result.output
    assert_same(
        load_file(work / "plain" / "alone" / "model.safetensors"), weights(swept[0], "2q,learning_rate=0.1,seed=1")
    )
    scored = json.loads((work / "plain/evaluation/alone/nearest-neighbour.json").read_bytes())["scores"]
    assert float(table_of(work)["2q,learning_rate=0.1,seed=1"]["NN"]) == scored["NN"]


def test_the_same_command_does_again_only_what_failed(work: Path, call: Call) -> None:
    before = {path: path.stat().st_mtime_ns for path in work.glob("out/*/model.safetensors")}
    planned = json.loads(call("sweep", "recipe.toml", "--dry-run", "--json").stdout)["steps"]
    todo = {step["step"] for step in planned if step["action"] != "skip"}
    assert todo == {*DIVERGING, *(f"knn {name}" for name in DIVERGING)}
    assert {step["why"] for step in planned if step["step"] in DIVERGING} == {"failed"}
    mended = RECIPE.replace("1e30", "0.02")
    (work / "recipe.toml").write_text(mended)
    result = call("sweep", "recipe.toml", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert {each["status"] for each in record["networks"]} == {"finished"}
    assert record == json.loads((work / "out/sweep/results.json").read_bytes())
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_failing_again_takes_nothing_from_the_others(work: Path, call: Call) -> None:
    table = table_of(work)
    result = call("sweep", "recipe.toml", "--only", "reg")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: 2 of 4 steps failed")
    assert table_of(work).keys() == table.keys()
    assert [line["status"] for line in table_of(work).values()] == [line["status"] for line in table.values()]


def test_steps_whose_needs_are_not_there_are_left_out_with_a_word(work: Path, call: Call) -> None:
    result = call("sweep", "recipe.toml", "--only", "evaluate")
    assert result.exit_code == 0, result.output
    assert "1 of 2" not in result.stdout
    assert (
        f"Skipped, since a step that they need is not finished: knn {DIVERGING[0]}, knn {DIVERGING[1]}."
        in result.stderr
    )


def test_from_takes_a_table_and_what_is_not_run_is_said(work: Path, call: Call) -> None:
    shutil.rmtree(work / "out" / CELLS[4])
    planned = json.loads(call("sweep", "recipe.toml", "--from", "reg", "--dry-run", "--json").stdout)["steps"]
    assert [step["step"] for step in planned][: len(CELLS[4:])] == CELLS[4:]
    result = call("sweep", "recipe.toml", "--only", "2q")
    assert result.exit_code == 0, result.output
    assert table_of(work)[CELLS[4]]["status"] == "not run"
    assert "1 of 2" in result.stdout


def test_students_are_trained_at_most_so_many_together(work: Path, call: Call) -> None:
    apart = {name: weights(work, name) for name in CELLS[:6]}
    assert call("sweep", "recipe.toml", "--force", "--only", "distill", "--together", "1").exit_code == 1
    for name in CELLS[:6]:
        assert table_of(work)[name]["together"] == "1"
        assert_same(weights(work, name), apart[name])


def test_one_that_cannot_begin_does_not_keep_the_others_from_it(work: Path, call: Call) -> None:
    """A student of more than the views' size is refused when the store is open, and then the rest go alone."""
    (work / "recipe.toml").write_text(
        RECIPE.replace("sweep = { learning_rate = [0.01, 1e30] }", "sweep = { student_size = [12, 17] }")
    )
    result = call("sweep", "recipe.toml")
    assert result.exit_code == 1
    table = table_of(work)
    assert {name: line["status"] for name, line in table.items() if name.startswith("reg")} == {
        "reg,student_size=12,seed=0": "finished",
        "reg,student_size=12,seed=1": "finished",
        "reg,student_size=17,seed=0": "failed",
        "reg,student_size=17,seed=1": "failed",
    }
    assert "--student-size 17 is larger than the 16 pixels" in table["reg,student_size=17,seed=0"]["reason"]


def test_what_failed_with_its_companions_in_an_ordinary_run_leaves_them_finished(work: Path, call: Call) -> None:
    student = '[[student]]\nname = "{}"\nlearning_rate = {}\n'
    plain = RECIPE[: RECIPE.index("[distill.sweep]")] + student.format("good", 0.01) + student.format("bad", 1e30)
    (work / "plain.toml").write_text(plain.replace('folder = "out"', 'folder = "plain"'))
    assert call("run", "plain.toml", "--from", "embed").exit_code == 1
    steps: dict[str, Any] = {
        step["step"]: step["action"]
        for step in json.loads(call("run", "plain.toml", "--dry-run", "--json").stdout)["steps"]
    }
    assert steps["good"] == "skip"
    assert steps["bad"] == "resume"


@pytest.mark.slow
def test_killed_sweep_goes_on_and_ends_as_an_uninterrupted_one(
    swept: tuple[Path, Result], work: Path, call: Call
) -> None:
    shutil.rmtree(work / "out")
    process = start_command("sweep", "recipe.toml")
    wait_until((work / "out" / CELLS[0] / "model.safetensors").exists, process, seconds=90, every=0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (work / "out" / "sweep" / "results.csv").exists()
    assert call("sweep", "recipe.toml").exit_code == 1
    for name in CELLS[:6]:
        assert_same(weights(work, name), weights(swept[0], name))
    ours, theirs = table_of(work), table_of(swept[0])
    assert {name: line["NN"] for name, line in ours.items()} == {name: line["NN"] for name, line in theirs.items()}


UNUSABLE = [
    (("no-such.toml",), "does not exist"),
    (("recipe.toml", "--only", "nobody"), "There is no step 'nobody'"),
    (("recipe.toml", "--together", "0"), "--together"),
    (("recipe.toml", "--data", "elsewhere"), "elsewhere"),
]


def test_bad_input_is_one_sentence(work: Path, call: Call) -> None:
    for words, sentence in UNUSABLE:
        result = call("sweep", *words)
        assert result.exit_code == 2, result.output
        assert sentence in result.stderr
        assert "Traceback" not in result.stderr
