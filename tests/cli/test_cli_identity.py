"""A student, and a store that is evaluated, do not get another dataset than the store's."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Call = Callable[..., Result]


@pytest.fixture
def other(workplace: Path, images: Callable[..., Path]) -> str:
    """A dataset of the same names and sizes."""
    images(workplace / "other", seed=9)
    return "other"


@pytest.mark.parametrize("content", ["sample", "all"])
def test_a_student_is_refused_another_data_set(
    call: Call, other: str, distill_options: tuple[str, ...], content: str
) -> None:
    result = call("distill", "teacher.zarr", other, "new", *distill_options, "--check-content", content)
    assert result.exit_code == 2
    assert "row 0 of split train, 'apple/00.png', has other content in 'other/train'; give the dataset" in _line(result)
    assert not Path("new").exists()


@pytest.mark.parametrize("evaluation", [("knn",), ("cluster", "--pictures"), ("linear", "--views", "2")])
def test_a_store_is_not_evaluated_with_another_data_set(call: Call, other: str, evaluation: tuple[str, ...]) -> None:
    name, *options = evaluation
    result = call("evaluate", name, "teacher.zarr", "--data", other, *options)
    assert result.exit_code == 2
    assert "row 0 of split train, 'apple/00.png', has other content in 'other/train'" in _line(result)


def test_a_student_that_is_scored_on_changed_test_images_is_refused(
    call: Call, workplace: Path, distill_options: tuple[str, ...]
) -> None:
    (workplace / "data/val/pear/03.png").write_bytes((workplace / "data/val/pear/02.png").read_bytes())
    result = call("distill", "teacher.zarr", "data", "new", *distill_options, "--live-every", "1")
    assert result.exit_code == 2
    assert "row 7 of split val, 'pear/03.png', has other content in 'data/val'" in _line(result)


def test_a_store_is_evaluated_with_its_own_data_set(call: Call, workplace: Path) -> None:
    assert workplace.is_dir()
    result = call("evaluate", "teacher.zarr", "--data", "data", "--check-content", "all")
    assert result.exit_code == 0, result.output


def test_a_run_is_resumed_with_another_check(call: Call, workplace: Path, distill_options: tuple[str, ...]) -> None:
    result = call("distill", "teacher.zarr", "data", "student", *distill_options, "--resume", "--check-content", "all")
    assert result.exit_code == 0, result.output


def _line(result: Result) -> str:
    return " ".join(result.output.split())
