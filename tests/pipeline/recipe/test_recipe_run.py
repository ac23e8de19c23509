"""What the steps of a recipe do when they run: together or alone, interrupted, refused before the first."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.distill.settings import SHARED_IN_ONE_PASS
from compress_ssl.pipeline.recipe.file import read_recipe
from compress_ssl.pipeline.recipe.run import passes
from compress_ssl.pipeline.recipe.steps import plan_steps
from compress_ssl.storage import open_store
from tests.pipeline.recipe.tiny_recipe import (
    RECIPE,
    actions,
    assert_same_weights,
    mark_interrupted,
    record_of,
    run,
    stamps,
    write_images,
)
from tests.processes import Forked, run_command_until, start_command, wait_until


def test_interrupted_step_goes_on(work: Path) -> None:
    mark_interrupted(work, "small")
    before = stamps(work / "out" / "small")
    decisions = run(work)
    assert decisions["small"] == ("resume", "was interrupted")
    assert actions(decisions).keys() <= {"small", "knn small"}
    # It was in fact done: nothing is trained again, and the same network is written.
    after = stamps(work / "out" / "small")
    assert after["checkpoint.pt"] == before["checkpoint.pt"]
    assert record_of(work, "small")["finished"] is True


def test_changed_setting_of_an_interrupted_step_spares_the_finished_output_before_it(work: Path) -> None:
    finished_before = (work / "out" / "small" / "model.safetensors").read_bytes()
    run(work, RECIPE.replace('name = "small"', 'name = "small"\ntemperature = 0.1'), only=("small",))
    mark_interrupted(work, "small")
    run(work, RECIPE.replace('name = "small"', 'name = "small"\ntemperature = 0.2'), only=("small",))
    assert (work / "out" / "small.previous" / "model.safetensors").read_bytes() == finished_before
    assert (work / "out" / "small.unfinished").is_dir()


def test_killed_run_goes_on_and_ends_as_an_uninterrupted_one(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished / "images", tmp_path / "images")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    second_record = (r"os\.rename .*embeddings\.zarr/train/embeddings/commits/\d+/.*json$", 2, 0)
    words = ("run", "recipe.toml", "--folder", "out", "--data", "images")
    assert Forked(run_command_until, second_record, *words).wait() == -signal.SIGKILL
    assert record_of(tmp_path, "embed")["finished"] is False
    decisions = run(tmp_path)
    assert decisions["big"] == ("skip", "up to date")
    assert decisions["embed"] == ("resume", "was interrupted")
    assert decisions["small"] == ("run", "not run before")
    for name in ("big", "small", "other"):
        model = f"out/{name}/model.safetensors"
        assert_same_weights(load_file(tmp_path / model), load_file(finished / model))
    resumed, whole = (open_store(folder / "out" / "embeddings.zarr")["train"] for folder in (tmp_path, finished))
    for view in range(3):
        np.testing.assert_array_equal(resumed.view(view), whole.view(view))


def test_recipes_of_one_folder_share_its_store(work: Path) -> None:
    before = stamps(work / "out" / "embeddings.zarr"), stamps(work / "out" / "small")
    another = RECIPE.replace('name = "other"', 'name = "third"').replace('"other"]', '"third"]')
    decisions = run(work, another.replace('name = "small"', 'name = "fourth"').replace('"small", ', ""))
    assert decisions["embed"] == ("skip", "up to date")
    assert actions(decisions).keys() == {"fourth", "third", "knn third"}
    assert (stamps(work / "out" / "embeddings.zarr"), stamps(work / "out" / "small")) == before
    assert actions(run(work)) == {}


def names_of(text: str, tmp_path: Path) -> list[list[str]]:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return [[step.name for step in together] for together in passes(plan_steps(read_recipe(str(path))))]


def test_students_of_one_stream_go_together_and_every_other_step_alone(tmp_path: Path) -> None:
    assert names_of(RECIPE, tmp_path) == [
        *(["big"], ["embed"], ["small", "other"]),
        *(["knn embed"], ["knn small"], ["knn other"]),
    ]


def test_student_of_another_stream_goes_alone_and_does_not_part_those_around_it(tmp_path: Path) -> None:
    between = 'name = "between"\nstudent = "conv4-16"\nbatch_size = 4\n[[student]]\nname = "other"'
    together = names_of(RECIPE.replace('name = "other"', between), tmp_path)
    assert together[2:4] == [["small", "other"], ["between"]]


def test_students_go_apart_only_if_they_see_other_images(tmp_path: Path) -> None:
    for setting, apart in [
        ("epochs = 2", True),
        ("batch_size = 4", True),
        ("seed = 1", True),
        ('student_view = "fresh"', True),
        ('renderer = "torchvision"', True),
        ('store = "their.zarr"', True),
        ("learning_rate = 0.1", False),
        ('objective = "compress-1q"', False),
        ("bank_size = 8", False),
    ]:
        together = names_of(RECIPE.replace('name = "other"', f'name = "other"\n{setting}'), tmp_path)
        assert (["small", "other"] not in together) == apart
        assert (setting.split(" ")[0] in SHARED_IN_ONE_PASS) == apart


def test_killed_pass_goes_on_with_each_student_and_takes_a_new_one_along(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = RECIPE.replace("bank_size = 16", "bank_size = 16\nepochs = 20")
    new = 'name = "new"\nstudent = "conv4-16"\nobjective = "compress-1q"\n'
    with_new = longer.replace("[evaluate]", f"[[student]]\n{new}[evaluate]")
    (work / "recipe.toml").write_text(longer)
    alone = Path(shutil.copytree(work, work.with_name("alone")))
    monkeypatch.chdir(work)
    process = start_command("run", "recipe.toml", "--folder", "out", "--data", "images", "--only", "distill")
    students = [work / "out" / name for name in ("small", "other")]
    wait_until(
        lambda: all((student / "checkpoint.pt").is_file() and not student_is_old(student) for student in students),
        process,
        seconds=90,
    )
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not any((student / "model.safetensors").is_file() for student in students)
    decisions = run(work, with_new, only=("distill",))
    assert {name: action for name, (action, _) in decisions.items()} == {
        "small": "resume",
        "other": "resume",
        "new": "run",
    }
    for name in ("small", "other", "new"):
        run(alone, with_new, only=(name,))
        model = f"out/{name}/model.safetensors"
        assert_same_weights(load_file(work / model), load_file(alone / model))


def student_is_old(student: Path) -> bool:
    """Whether a student's folder still is that of the run before, which is about to be moved away."""
    try:
        return bool(json.loads((student / "settings.json").read_bytes())["epochs"] == 1)
    except OSError:
        return True


def test_place_of_a_late_step_that_is_taken_is_found_before_the_first(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    (tmp_path / "out" / "other").mkdir(parents=True)
    for dry_run in (True, False):
        with pytest.raises(InputError, match=r"other' exists, but was not made by this recipe; move it away"):
            run(tmp_path, dry_run=dry_run)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["other"]


def test_output_of_someone_else_is_not_touched(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    (tmp_path / "out" / "big").mkdir(parents=True)
    (tmp_path / "out" / "big" / "thesis.tex").write_text("all of it")
    with pytest.raises(InputError, match=r"big' exists, but was not made by this recipe; move it away"):
        run(tmp_path)
    assert stamps(tmp_path / "out").keys() == {"big/thesis.tex"}


def test_mistake_in_a_late_step_is_found_before_the_first(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    for old, new, sentence in [
        (
            'student = "conv4-32"',
            'student = "conv4-33"',
            "There is no architecture 'conv4-33'. Did you mean 'conv4-32'?",
        ),
        ('arch = "conv4-16"', 'arch = "resnet81"', "There is no architecture 'resnet81'. Did you mean 'resnet18'?"),
        ("views = 2", 'views = 2\nsplit = ["train", "test"]', "images' has no folder 'test' (nor test.txt, test.tar, "),
    ]:
        with pytest.raises(InputError) as error:
            run(tmp_path, RECIPE.replace(old, new))
        assert sentence in str(error.value)
        assert not (tmp_path / "out").exists()


def test_missing_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"The dataset '.*images' does not exist; give the folder or the pack"):
        run(tmp_path)
