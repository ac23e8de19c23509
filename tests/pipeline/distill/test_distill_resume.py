"""Going on where a stopped run was, against the run that was never stopped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from compress_ssl.pipeline.common.device import choose_precision
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.run import distill
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.recipe.live_evaluation import live_evaluation

Students = Callable[..., DistillSettings]
Trained = Callable[..., dict[str, Tensor]]

KINDS: dict[str, dict[str, Any]] = {
    "bank-in-one-epoch": {},
    "bank-over-epochs": {"bank_size": 61},
    "one-bank": {"objective": "compress-1q", "bank_size": 61},
    "prefilled": {"bank_size": 61, "prefill": True},
    "prefilled-one-bank": {"objective": "compress-1q", "prefill": True},
    "fresh": {"bank_size": 61, "student_view": "fresh", "prefill": True},
    "scaled": {"precision": "float16", "objective": "compress-1q", "bank_precision": "float16"},
    "in-parts": {"accumulation": 4, "schedule": "cosine", "optimizer": "adamw", "warmup_epochs": 1.5},
    "last-batch-kept": {"bank_size": 61, "prefill": True, "keep_last": True, "no_decay_on": "norms-and-biases"},
    "last-batch-kept-one-bank": {"objective": "compress-1q", "bank_size": 61, "keep_last": True},
    "measured": {"live_every": 1, "export": "key"},
    "linear-head": {"head": "linear", "export": "key"},
    "mlp-head": {"head": "mlp", "bank_size": 61, "prefill": True},
    "mlp-head-one-bank": {"head": "mlp", "objective": "compress-1q", "precision": "bfloat16"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_run_ends_with_the_weights_and_metrics_of_one_never_stopped(
    student: Students, trained: Trained, killed_after: Any, assert_same: Any, metrics: Any, kind: str
) -> None:
    expected = trained("whole", **KINDS[kind])
    settings = student(**KINDS[kind])
    for steps in (3, 2, 3, 3):  # of 9, or 12: ends in the first, second and third epoch
        killed_after(steps, [settings])
        settings = settings.model_copy(update={"resume": True})
    model = distill(settings, Silent(), live_evaluation)
    assert_same(load_file(model), expected)
    assert metrics(settings.run) == metrics(settings.run.with_name("whole"))
    mine, other = (torch.load(settings.run.with_name(name) / "checkpoint.pt") for name in (settings.run.name, "whole"))
    assert_same(mine["modules"], other["modules"])


def test_the_teachers_bank_is_not_in_the_checkpoint(trained: Trained, tmp_path: Path) -> None:
    trained()
    saved = torch.load(tmp_path / "student" / "checkpoint.pt")["modules"]
    assert not [name for name in saved if "teacher_bank" in name]
    assert saved["objective.student_bank.rows"].shape == (20, 16)
    assert "student.0.weight" in saved
    assert "objective.key_encoder.0.weight" in saved


@pytest.mark.parametrize("objective", ["compress-1q", "compress-2q"])
def test_run_begun_before_there_were_heads_goes_on(
    student: Students, trained: Trained, killed_after: Any, assert_same: Any, objective: str
) -> None:
    """Its settings do not name a head, and its checkpoint has the names of then."""
    expected = trained("whole", objective=objective)
    settings = student(objective=objective)
    killed_after(5, [settings])
    record = json.loads((settings.run / "settings.json").read_text())
    del record["head"]
    (settings.run / "settings.json").write_text(json.dumps(record))
    saved = torch.load(settings.run / "checkpoint.pt")["modules"]
    names = {name for name in saved if name.startswith("objective.") and "key_encoder" not in name}
    assert names == (
        {"objective.projection.weight", "objective.projection.bias"}
        if objective == "compress-1q"
        else {"objective.student_bank.rows", "objective.student_bank.position"}
    )
    assert_same(trained(objective=objective, resume=True), expected)


def test_finished_run_is_left_as_it_is(trained: Trained, tmp_path: Path, assert_same: Any) -> None:
    expected = trained()
    names = ("checkpoint.pt", "metrics.jsonl", "settings.json")
    before = {name: (tmp_path / "student" / name).read_bytes() for name in names}
    assert_same(trained(resume=True), expected)
    assert {name: (tmp_path / "student" / name).read_bytes() for name in names} == before


def test_network_that_was_not_yet_written_is_written_on_resume(
    trained: Trained, tmp_path: Path, assert_same: Any
) -> None:
    expected = trained()
    (tmp_path / "student" / "model.safetensors").unlink()
    assert_same(trained(resume=True), expected)


def test_resume_without_a_run_begins_one(trained: Trained, assert_same: Any, tmp_path: Path) -> None:
    expected = trained("whole")
    assert_same(trained(resume=True), expected)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "settings.json.0123.partial").write_text("{")  # killed at the very first file
    assert_same(trained("begun"), expected)


def test_leftovers_of_a_killed_writer_are_swept(trained: Trained, tmp_path: Path) -> None:
    trained()
    leftover = tmp_path / "student" / f"checkpoint.pt.{32 * 'a'}.partial"
    leftover.write_bytes(b"half a checkpoint")
    trained(resume=True)
    assert not leftover.exists()


def test_a_line_of_metrics_cut_short_is_written_again(
    student: Students, trained: Trained, killed_after: Any, metrics: Any
) -> None:
    trained("whole")
    settings = student()
    killed_after(7, [settings])
    with (settings.run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "step": 3, "lo')
    distill(settings.model_copy(update={"resume": True}), Silent())
    assert metrics(settings.run) == metrics(settings.run.with_name("whole"))


def test_run_that_is_there_is_not_overwritten_unasked(trained: Trained, tmp_path: Path) -> None:
    first = trained()
    with pytest.raises(InputError, match=r"student' exists already; use --resume to resume it, or --overwrite"):
        trained()
    (tmp_path / "student" / "old.txt").write_text("of the first run")
    second = trained(overwrite=True, seed=1)
    assert not torch.equal(first["0.weight"], second["0.weight"])
    assert not (tmp_path / "student" / "old.txt").exists()


CHANGES: dict[str, Any] = {
    "student": "conv4-32",
    "objective": "compress-1q",
    "head": "linear",
    "student_view": "fresh",
    "views": 1,
    "student_size": 12,
    "epochs": 4,
    "batch_size": 4,
    "accumulation": 2,
    "optimizer": "adamw",
    "learning_rate": 0.06,
    "momentum": 0.8,
    "weight_decay": 0.0,
    "schedule": "cosine",
    "milestones": (1, 2),
    "gamma": 0.1,
    "warmup_epochs": 1.0,
    **({"precision": "bfloat16"} if choose_precision("bfloat16", torch.device("cpu")) == "bfloat16" else {}),
    "memory_format": "contiguous",
    "seed": 1,
    "temperature": 0.05,
    "teacher_temperature": 0.05,
    "mask_own": True,
    "centre": True,
    "bank_size": 21,
    "bank_precision": "float16",
    "prefill": True,
    "key_momentum": 0.5,
    "export": "key",
    "renderer": "torchvision",
}


def test_run_that_keeps_the_last_batch_is_not_resumed_where_it_would_keep_fewer(
    student: Students, trained: Trained
) -> None:
    trained(keep_last=True)
    settings = student(keep_last=True, resume=True)
    record = json.loads((settings.run / "settings.json").read_text())
    assert record["inputs"].pop("images_per_epoch") == 29
    record["inputs"]["images_per_epoch"] = 28
    (settings.run / "settings.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"was started with inputs\.images_per_epoch = 28, now it is 29"):
        distill(settings, Silent())


def test_changed_setting_is_named_on_resume(student: Students, trained: Trained, tmp_path: Path) -> None:
    trained()
    before = {path.name: path.read_bytes() for path in (tmp_path / "student").iterdir()}
    for name, value in CHANGES.items():
        was = "float32" if name == "precision" else getattr(student(), name)  # what auto is on a CPU
        written, now = (repr(list(each) if isinstance(each, tuple) else each) for each in (was, value))
        with pytest.raises(InputError) as raised:
            trained(resume=True, **{name: value})
        assert f"was started with {name} = {written}, now it is {now}; resume with the same" in str(raised.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "student").iterdir()} == before


def test_settings_of_how_a_run_is_made_may_change(
    student: Students, trained: Trained, killed_after: Any, assert_same: Any, tmp_path: Path
) -> None:
    expected = trained("whole")
    settings = student()
    killed_after(5, [settings])
    how = {"threads": 2, "device": "auto", "teacher_memory": "mapped", "scratch": tmp_path, "checkpoint_minutes": 3}
    measuring = {"live_every": 2, "live_images": 5, "keep_every": 1, "tensorboard": True}
    changed = trained(resume=True, **how, **measuring)
    for name, weight in expected.items():  # two threads may add in another order
        torch.testing.assert_close(changed[name], weight, rtol=1e-4, atol=1e-5)


def test_places_may_change_if_what_lies_there_is_the_same(
    student: Students, trained: Trained, killed_after: Any, store: Path, data: Path, tmp_path: Path, assert_same: Any
) -> None:
    expected = trained("whole")
    settings = student()
    killed_after(5, [settings])
    settings.run.rename(tmp_path / "moved")
    (tmp_path / "photographs").symlink_to(data)
    (tmp_path / "link.zarr").symlink_to(store)
    assert_same(trained("moved", resume=True, data=tmp_path / "photographs", store=tmp_path / "link.zarr"), expected)


def test_another_teacher_in_the_store_is_named(
    student: Students, killed_after: Any, data: Path, trained: Trained, tmp_path: Path
) -> None:
    killed_after(5, [student()])
    other = tmp_path / "other.zarr"
    embed(EmbedSettings(data=data, store=other, teacher="random/conv4-32", seed=6, size=16, resize=18, views=2,
                        threads=1, block_rows=4), Silent())  # fmt: skip
    with pytest.raises(InputError, match=r"was started with inputs\.teacher\.weights_sha256 = '"):
        trained(resume=True, store=other)


def test_damaged_checkpoint_is_named(trained: Trained, tmp_path: Path) -> None:
    trained()
    checkpoint = tmp_path / "student" / "checkpoint.pt"
    whole = checkpoint.read_bytes()
    for damaged in (whole[:-500], b"", b"not a checkpoint"):
        checkpoint.write_bytes(damaged)
        with pytest.raises(InputError, match=r"checkpoint\.pt' cannot be read .*--overwrite"):
            trained(resume=True)
