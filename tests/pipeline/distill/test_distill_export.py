"""What a run leaves: the network, its best and earlier states, scores, events; and what failing says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision import models

from compress_ssl.pipeline.common.device import choose_precision
from compress_ssl.pipeline.common.errors import InputError, RunError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.run import distill
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.evaluate.run import evaluate
from compress_ssl.pipeline.evaluate.settings import KnnSettings
from compress_ssl.pipeline.networks.network import load_network
from tests.processes import Forked, run_in_little_memory

Students = Callable[..., DistillSettings]
Trained = Callable[..., dict[str, Tensor]]


def test_exported_weights_load_into_plain_torchvision(trained: Trained, tmp_path: Path) -> None:
    weights = trained(student="resnet18", epochs=1)
    network = models.resnet18()
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert (sorted(missing), unexpected) == (["fc.bias", "fc.weight"], [])
    network.fc = torch.nn.Identity()
    ours = load_network(str(tmp_path / "student" / "model.safetensors")).module.eval()
    images = torch.ones(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), ours(images), rtol=1e-4, atol=1e-6)


def test_key_or_query_encoder_is_exported_as_asked(trained: Trained, assert_same: Any, tmp_path: Path) -> None:
    for export, part in (("query", "student."), ("key", "objective.key_encoder.")):
        weights = trained(export, export=export)
        saved = torch.load(tmp_path / export / "checkpoint.pt")["modules"]
        assert_same(weights, {name.removeprefix(part): saved[name] for name in saved if name.startswith(part)})
    assert not torch.equal(load_file(tmp_path / "query" / "model.safetensors")["0.weight"], weights["0.weight"])


def test_every_so_many_epochs_and_the_best_are_kept(trained: Trained, assert_same: Any, tmp_path: Path) -> None:
    run = tmp_path / "student"
    trained(epochs=5, keep_every=2, live_every=1)
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == ["best", "epoch-0002", "epoch-0004"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scores = {line["epoch"]: line["nn_top1_percent"] for line in lines if "nn_top1_percent" in line}
    assert len(scores) == 5
    best = torch.load(run / "best" / "checkpoint.pt")
    assert best["epoch"] - 1 == max(scores, key=lambda epoch: (scores[epoch], -epoch))
    assert best["best"] == max(scores.values())
    assert_same(load_file(run / "epoch-0002" / "model.safetensors"), trained("two", epochs=2))
    whole = torch.load(run / "epoch-0004" / "checkpoint.pt")
    assert (whole["epoch"], whole["step"]) == (4, 0)


def test_measuring_changes_no_weight_and_equals_evaluate(
    trained: Trained, assert_same: Any, data: Path, tmp_path: Path
) -> None:
    measured = trained("measured", live_every=2, live_images=1000)
    assert_same(measured, trained("plain"))
    lines = [json.loads(line) for line in (tmp_path / "measured" / "metrics.jsonl").read_text().splitlines()]
    scores = [(line["epoch"], line["nn_top1_percent"]) for line in lines if "nn_top1_percent" in line]
    assert [epoch for epoch, _ in scores] == [1, 2]  # every second, and the last
    result = evaluate(
        KnnSettings(model=str(tmp_path / "measured"), data=data, threads=1, device="cpu", neighbours=(1,)), Silent()
    )
    assert scores[-1][1] == result.result.scores()["NN"]


def test_measuring_needs_somebody_who_measures(student: Students) -> None:
    with pytest.raises(InputError, match="live_every is set, but no live evaluation was passed"):
        distill(student(live_every=1), Silent())
    assert not student().run.exists()


def test_settings_say_what_the_run_was_made_from(trained: Trained, tmp_path: Path) -> None:
    trained(temperature=0.1)
    record = json.loads((tmp_path / "student" / "settings.json").read_text())
    assert record["temperature"] == 0.1
    assert record["inputs"]["teacher"]["architecture"] == "conv4-32"
    assert record["inputs"]["data_set"]["fingerprint"]
    assert record["versions"]["torch"]
    assert not {"resume", "overwrite"} & record.keys()


def events(run: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run / "tensorboard"))
    read.Reload()
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_tensorboard_has_the_numbers_of_the_metrics_after_a_resume_too(
    student: Students, trained: Trained, killed_after: Any
) -> None:
    settings = student(tensorboard=True, live_every=1)
    killed_after(4, [settings])  # saved at the first epoch's end
    killed_after(6, [settings.model_copy(update={"resume": True})])
    trained(tensorboard=True, live_every=1, resume=True)
    written: dict[str, list[tuple[int, float]]] = {}
    for line in (settings.run / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        step = values.pop("epoch") * 3 + values.pop("step")
        for name, value in values.items():
            written.setdefault(name, []).append((step, pytest.approx(value, rel=1e-6)))
    assert [step for step, _ in written["nn_top1_percent"]] == [3, 6, 9]
    assert events(settings.run) == written


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [({"precision": "bfloat16"}, 0.02), ({"precision": "float16"}, 0.01), ({"memory_format": "contiguous"}, 1e-5)],
)
def test_other_precisions_and_layouts_begin_close_and_learn(
    trained: Trained, metrics: Any, tmp_path: Path, changes: dict[str, Any], tolerance: float
) -> None:
    weights = trained("changed", **changes)
    assert all(weight.dtype == torch.float32 for weight in weights.values() if weight.is_floating_point())
    losses = [line["loss"] for line in metrics(tmp_path / "changed")]
    assert losses[-1] < losses[0] / 3
    for name, kind in (("one-step", changes), ("plain", {})):
        trained(name, epochs=1, batch_size=29, **kind)
    ours, plain = (metrics(tmp_path / name)[0]["loss"] for name in ("one-step", "plain"))
    assert ours == pytest.approx(plain, rel=tolerance)
    precision = changes.get("precision", "float32")
    is_half = choose_precision(precision, torch.device("cpu")) != "float32"  # some CPUs only emulate it
    assert ours != plain or not is_half


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_compiled_networks_learn_the_same(trained: Trained, compiled_graphs: Callable[[], int], conv1: str) -> None:
    plain = trained("plain", student=conv1, learning_rate=1e-3)
    assert compiled_graphs() == 0
    compiled = trained("compiled", student=conv1, learning_rate=1e-3, compile=True, live_every=2)
    assert compiled_graphs() == 3  # the student, the key encoder, and the student as it is measured
    for name, weight in compiled.items():
        torch.testing.assert_close(weight, plain[name], rtol=1e-3, atol=1e-4)


def test_loss_that_is_not_a_number_ends_the_run_and_keeps_the_last_good_state(trained: Trained, tmp_path: Path) -> None:
    run = tmp_path / "student"
    with pytest.raises(RunError, match=r"student' .*lower --learning-rate"):
        trained(learning_rate=1e-3, warmup_epochs=0, schedule="step", milestones=(1,), gamma=1e36)
    assert not (run / "model.safetensors").exists()
    saved = torch.load(run / "checkpoint.pt")
    assert (saved["epoch"], saved["step"]) == (1, 0)
    assert all(torch.isfinite(value).all() for value in saved["modules"].values())


def test_bank_larger_than_the_data_set_is_made_as_small_with_a_word(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(bank_size=10**12)
    assert (
        "'student': --bank-size 1000000000000 is reduced to the size of the dataset, which has 29 images" in caplog.text
    )
    saved = torch.load(tmp_path / "student" / "checkpoint.pt")["modules"]
    assert saved["objective.student_bank.rows"].shape == (29, 16)


def test_step_that_memory_does_not_hold_is_a_sentence_with_what_to_set(store: Path, data: Path, tmp_path: Path) -> None:
    words = ["distill", store, data, tmp_path / "run", "--student", "conv4-16", "--batch-size", "24", "--objective",
             "crd", "--negatives", "5000000", "--threads", "1", "--device", "cpu"]  # fmt: skip
    process = Forked(run_in_little_memory, *map(str, words))
    assert process.wait() == 1, process.errors
    last = process.errors.splitlines()[-1]
    assert last == (
        f"Error: The memory was full for '{tmp_path / 'run'}' at --batch-size 24; set --accumulation 2, which computes "
        "the step in smaller parts, or lower --batch-size or --negatives. The last checkpoint is kept."
    )
    assert "Traceback" not in process.errors
