"""How a training in several processes ends: asked to stop, failed or killed in one of them; and how it goes on."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.run import distill
from compress_ssl.pipeline.distill.settings import DistillSettings
from tests.pipeline.distill.command import command_of
from tests.processes import Forked, run_command, start_ranks, wait_until

ROOT = Path(__file__).parents[3]
Students = Callable[..., DistillSettings]

LONG: dict[str, Any] = {
    "student": "timm/test_efficientnet_ln", "epochs": 10, "checkpoint_minutes": 1e-9, "bank_size": 61,
    "learning_rate": 0.01,
}  # fmt: skip


def launch(*arguments: list[str]) -> list[Forked]:
    """Start a process for each, without torchrun."""
    return start_ranks(*((run_command, *words) for words in arguments))


def run_until_deaf(*words: str) -> None:
    """Run a command that ends early, and check that SIGTERM can no longer change its exit code."""
    try:
        run_command(*words)
    finally:
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def run_torchrun(*words: str) -> None:
    from torch.distributed.run import main

    main(words)


def wait(launched: Sequence[Forked]) -> tuple[list[int], str]:
    """Exit codes, and what all said on standard error."""
    return [process.wait() for process in launched], "".join(process.errors for process in launched)


def test_a_signal_to_one_process_stops_all_at_the_same_step_saved(student: Students, tmp_path: Path) -> None:
    settings = student(**LONG)
    launched = start_ranks(*[(run_until_deaf, *command_of(settings))] * 2)
    wait_until((settings.run / "checkpoint.pt").exists, *launched)
    launched[1].send_signal(signal.SIGUSR1)
    codes, errors = wait(launched)
    assert codes == [75, 75], errors
    state = torch.load(settings.run / "checkpoint.pt")
    assert errors.count("stopped by SIGUSR1 and saved") == 1
    assert f"stopped by SIGUSR1 and saved at epoch {state['epoch']}, step {state['step']}." in errors
    assert "Traceback" not in errors
    assert not (settings.run / "model.safetensors").exists()
    assert not settings.run.with_name("student.lease").exists()


def test_an_error_of_one_process_ends_all_with_its_one_sentence(student: Students, tmp_path: Path) -> None:
    elsewhere = student(**LONG).model_copy(update={"data": tmp_path / "not-mounted-here"})
    launched = launch(command_of(student(**LONG)), command_of(elsewhere))
    codes, errors = wait(launched)
    assert codes == [1, 2], errors
    assert errors.count("Error: ") == 1
    assert "not-mounted-here' does not exist" in errors
    assert "Traceback" not in errors


def test_a_process_that_is_killed_ends_the_others_and_the_checkpoint_stays(student: Students, tmp_path: Path) -> None:
    settings = student(**LONG)
    launched = launch(*[command_of(settings)] * 2)
    wait_until((settings.run / "checkpoint.pt").exists, *launched)
    launched[1].send_signal(signal.SIGKILL)
    codes, errors = wait(launched)
    assert codes == [1, -signal.SIGKILL], errors
    assert errors.count("Error: ") == 1
    assert "Another of the 2 processes died without a message" in errors
    assert "Traceback" not in errors
    assert torch.load(settings.run / "checkpoint.pt")["modules"]


@pytest.mark.slow
def test_stopped_by_torchrun_it_goes_on_in_one_process_and_again_in_two(
    student: Students, killed_after: Any, in_two_processes: Any, metrics: Any
) -> None:
    """2, 1 and 2 processes in turn end as one process that was never stopped."""
    whole = student("whole", **LONG)
    distill(whole, Silent())
    settings = student(**LONG)
    options = ["--standalone", "--nproc-per-node", "2", "-m", "compress_ssl"]
    torchrun = Forked(run_torchrun, *options, *command_of(settings), environment={"PYTHONPATH": str(ROOT)})
    wait_until((settings.run / "checkpoint.pt").exists, torchrun)
    torchrun.send_signal(signal.SIGTERM)
    assert torchrun.wait() == 1, torchrun.errors  # torchrun's own: it does not hand on the 75 of its processes
    assert torchrun.output == ""
    assert torchrun.errors.count("stopped by SIGTERM and saved") == 1, torchrun.errors
    assert not (settings.run / "model.safetensors").exists()
    resumed = settings.model_copy(update={"resume": True})
    killed_after(4, [resumed])
    first, second = in_two_processes([("distill", [resumed])])
    assert first == second
    ours, theirs = (load_file(each.run / "model.safetensors") for each in (settings, whole))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-4)
    lines = list(zip(metrics(settings.run), metrics(whole.run), strict=True))
    assert all(mine == pytest.approx(other, rel=1e-3) for mine, other in lines)
    assert len(lines) == 10
