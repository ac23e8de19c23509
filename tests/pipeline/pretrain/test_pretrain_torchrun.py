"""Pre-training in two processes of torchrun, on the CPU by gloo, against one process with the same global batch."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.pretrain.run import pretrain
from compress_ssl.pipeline.pretrain.settings import PretrainSettings
from tests.processes import run_command, start_ranks, wait_until

METHODS: dict[str, dict[str, Any]] = {
    "simclr": {"policy": "moco-v2"},
    "moco-v2": {"method": "moco-v2", "queue_size": 20, "key_momentum": 0.9},
    "supervised": {"method": "supervised", "batch_size": 12, "keep_last": True},
}


def settings_of(data: Path, name: str, **given: Any) -> PretrainSettings:
    values: dict[str, Any] = {
        "arch": "timm/test_efficientnet_ln", "epochs": 2, "batch_size": 8, "size": 16, "resize": 16,
        "learning_rate": 0.03, "device": "cpu", "threads": 1, "renderer": "torchvision", "keep_every": 1,
    }  # fmt: skip
    return PretrainSettings(data=data, run=data.parent / name, **{**values, **given})


def test_two_processes_end_with_the_network_head_and_metrics_of_one(data: Path, in_two_processes: Any) -> None:
    """SimCLR finds an image's partner among those of both processes; MoCo splits keys otherwise than queries."""
    together = {method: settings_of(data, f"two-{method}", **given) for method, given in METHODS.items()}
    synchronised = settings_of(data, "synchronised", sync_bn=True)
    first, second = in_two_processes([("pretrain", [each]) for each in (*together.values(), synchronised)])
    for number, (method, two) in enumerate(together.items()):
        assert first[number] == second[number], method
        assert len(first[number]) == 1
        one = settings_of(data, f"one-{method}", **METHODS[method])
        pretrain(one, Silent())
        ours, theirs = (torch.load(each.run / "checkpoint.pt")["modules"] for each in (two, one))
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-5)
        lines = [(each.run / "metrics.jsonl").read_text().splitlines() for each in (two, one)]
        for mine, other in zip(*(map(json.loads, of) for of in lines), strict=True):
            for time in ("images_per_second", "data_wait_seconds"):
                del mine[time], other[time]
            assert mine == pytest.approx(other, rel=1e-4)
    sentence = "--sync-bn needs GPUs, because torch's SyncBatchNorm does; leave it out on CPUs."
    ends = {first[-1], second[-1]}  # of whichever rank is first
    assert sentence in ends
    assert ends <= {sentence, f"told by another: {sentence}"}


def test_moco_stopped_by_a_signal_ends_bit_for_bit_as_if_nothing_had_happened(
    data: Path, in_two_processes: Any
) -> None:
    given = {**METHODS["moco-v2"], "arch": "conv4-16", "epochs": 12, "policy": "crop-flip"}
    whole, stopped = (settings_of(data, name, **given) for name in ("whole", "stopped"))
    told = stopped.model_dump(mode="json", include=stopped.model_fields_set - {"data", "run", "policy"})
    options = [word for name, value in told.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words = ("pretrain", str(stopped.data), str(stopped.run), "--policy", "crop-flip", *options)
    launched = start_ranks(*[(run_command, *words)] * 2)
    wait_until((stopped.run / "checkpoint.pt").exists, *launched)
    for process in launched:  # as torchrun does
        process.send_signal(signal.SIGTERM)
    assert [process.wait() for process in launched] == [75, 75]
    errors = "".join(process.errors for process in launched)
    assert errors.count("stopped by SIGTERM and saved") == 1, errors
    assert not (stopped.run / "model.safetensors").exists()
    resumed = stopped.model_copy(update={"resume": True})
    first, _ = in_two_processes([("pretrain", [whole]), ("pretrain", [resumed])])
    ours, theirs = (torch.load(each.run / "checkpoint.pt")["modules"] for each in (stopped, whole))
    assert any("queue" in name for name in ours)
    assert any("key_encoder" in name for name in ours)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    assert first[0] == first[1]
