"""Several students on one stream of images, against each of them alone."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from compress_ssl.pipeline.common.errors import InputError, RunError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.run import distill_together
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.recipe.live_evaluation import live_evaluation

Students = Callable[..., DistillSettings]
Trained = Callable[..., dict[str, Tensor]]

KINDS: dict[str, dict[str, Any]] = {
    "two-banks": {},
    "one-bank": {"objective": "compress-1q", "learning_rate": 0.02},
    "wide": {"student": "conv4-32", "bank_size": 50, "prefill": True, "live_every": 2},
    "small": {"student_size": 12, "optimizer": "adamw", "learning_rate": 0.001, "schedule": "cosine"},
    "in-parts": {"accumulation": 2, "export": "key", "keep_every": 1},
    "linear-head": {"head": "linear"},
    "mlp-head": {"head": "mlp", "objective": "compress-1q", "student_size": 12},
    "half": {"precision": "bfloat16", "bank_precision": "float16", "warmup_epochs": 1},
}


def train(students: list[DistillSettings]) -> dict[str, dict[str, Tensor]]:
    models = distill_together(students, Silent(), live_evaluation)
    return {settings.run.name: load_file(model) for settings, model in zip(students, models, strict=True)}


@pytest.fixture
def alone(trained: Trained) -> Callable[[str], dict[str, Tensor]]:
    return lambda name: trained(f"alone-{name}", **KINDS[name])


def resumed(settings: DistillSettings) -> DistillSettings:
    return settings.model_copy(update={"resume": True})


def test_each_student_has_the_weights_and_metrics_that_it_has_alone(
    student: Students, alone: Any, metrics: Any, assert_same: Any
) -> None:
    settings = [student(name, **kind) for name, kind in KINDS.items()]
    for name, weights in train(settings).items():
        assert_same(weights, alone(name))
        run = settings[0].run.parent
        assert metrics(run / name) == metrics(run / f"alone-{name}")


def test_dropped_layers_are_the_same_whoever_shares_the_pass(
    student: Students, trained: Trained, assert_same: Any
) -> None:
    deep = {"student": "efficientnet_b0", "epochs": 1, "prefill": True}  # some of its layers are skipped at random
    together = train([student("other", student="resnet18-32px", epochs=1, prefill=True), student("deep", **deep)])
    assert_same(together["deep"], trained("alone", **deep))


@pytest.mark.parametrize("done", [2, 4, 9])
def test_one_that_is_ahead_or_finished_waits_for_the_others(
    student: Students, trained: Trained, alone: Any, metrics: Any, assert_same: Any, killed_after: Any, done: int
) -> None:
    ahead = student("one-bank", **KINDS["one-bank"])
    if done < 9:
        killed_after(done, [ahead])
    else:
        distill_together([ahead], Silent())
    settings = [resumed(ahead), student("two-banks", resume=True)]
    for name, weights in train(settings).items():
        assert_same(weights, alone(name))
        assert metrics(ahead.run.parent / name) == metrics(ahead.run.parent / f"alone-{name}")


def test_pass_that_is_killed_goes_on_for_all(
    student: Students, alone: Any, assert_same: Any, killed_after: Any
) -> None:
    names = ("two-banks", "small", "wide")
    settings = [student(name, **KINDS[name]) for name in names]
    killed_after(5, settings)
    killed_after(2, [resumed(settings[1])])
    for name, weights in train([resumed(each) for each in settings]).items():
        assert_same(weights, alone(name))


def test_student_that_fails_is_named_and_the_others_are_finished(
    student: Students, alone: Any, assert_same: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings = [student("two-banks"), student("too-fast", learning_rate=1e30), student("one-bank", **KINDS["one-bank"])]
    with caplog.at_level(logging.ERROR), pytest.raises(RunError, match=r"too-fast' .*lower --learning-rate") as raised:
        distill_together(settings, Silent())
    assert "two-banks" not in str(raised.value)
    assert "The other trainings continue." in caplog.text
    for each in (settings[0], settings[2]):
        assert_same(load_file(each.run / "model.safetensors"), alone(each.run.name))
    assert not (settings[1].run / "model.safetensors").exists()


def test_all_that_fail_are_named(student: Students) -> None:
    settings = [student(name, learning_rate=1e30) for name in ("first", "second")]
    with pytest.raises(RunError, match=r"first' .*second' "):
        distill_together(settings, Silent())


def test_students_of_different_streams_are_refused(student: Students) -> None:
    changes = {"batch_size": 4, "seed": 1, "epochs": 4, "views": 1, "renderer": "torchvision"}
    for field, value in changes.items():
        settings = [student("first"), student("second", **{field: value})]
        with pytest.raises(
            InputError, match=rf"first' and .*second' cannot be trained on one stream .* their {field} differ"
        ):
            distill_together(settings, Silent())
        assert not settings[0].run.exists()


def test_one_folder_is_not_two_students(student: Students) -> None:
    with pytest.raises(InputError, match=r"student' is the folder of two students"):
        distill_together([student(), student("other"), student(objective="compress-1q")], Silent())


def test_no_folder_is_touched_when_one_is_taken(student: Students, trained: Trained, tmp_path: Path) -> None:
    trained("taken")
    before = (tmp_path / "taken" / "model.safetensors").read_bytes()
    settings = [student("new"), student("taken", overwrite=True), student("foreign")]
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"foreign' is not empty and not a run"):
        distill_together(settings, Silent())
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "taken" / "model.safetensors").read_bytes() == before
