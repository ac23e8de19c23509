"""Processes that train: killed at any moment, or asked to stop by a signal; and what the command line says then."""

import os
import pty
import random
import re
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from compress_ssl.cli.main import main
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.run import distill_together
from compress_ssl.pipeline.distill.settings import DistillSettings
from tests.pipeline.distill.command import command_of
from tests.processes import Forked, start_command, wait_until
from tests.slow import with_slow

Students = Callable[..., DistillSettings]

LONG: dict[str, Any] = {"epochs": 25, "checkpoint_minutes": 1e-9}
PASSES: dict[str, list[dict[str, Any]]] = {
    "one": [{"bank_size": 61, "prefill": True}],
    "several": [{}, {"objective": "compress-1q", "bank_size": 61}, {"student_size": 12, "precision": "float16"}],
}


def changed_since(paths: list[Path], before: list[int]) -> bool:
    return any(path.exists() and path.stat().st_mtime_ns != then for path, then in zip(paths, before, strict=True))


@pytest.mark.parametrize("kind", with_slow(PASSES, {"several"}))
def test_killed_five_times_and_resumed_it_ends_as_if_nothing_had_happened(
    student: Students, metrics: Any, assert_same: Any, kind: str
) -> None:
    whole = [student(f"whole-{number}", **LONG, **each) for number, each in enumerate(PASSES[kind])]
    distill_together(whole, Silent())
    settings = [student(f"{number}", **LONG, **each, resume=True) for number, each in enumerate(PASSES[kind])]
    chance = random.Random(kind)
    for kills in range(5):
        # The first is killed wherever it is, the later ones once they have gone on.
        watched = [each.run / ("checkpoint.pt" if kills else "settings.json") for each in settings]
        before = [path.stat().st_mtime_ns if path.exists() else 0 for path in watched]
        process = Forked(distill_together, settings, Silent())
        wait_until(partial(changed_since, watched, before), process, seconds=60, every=0.001)
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (settings[0].run / "model.safetensors").exists()
    models = distill_together(settings, Silent())
    for model, other in zip(models, whole, strict=True):
        assert_same(load_file(model), load_file(other.run / "model.safetensors"))
        assert metrics(model.parent) == metrics(other.run)
        assert not list(model.parent.glob("*.partial"))


def test_signals_end_a_run_that_is_saved_and_the_same_command_goes_on(
    student: Students, assert_same: Any, metrics: Any
) -> None:
    codes = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGHUP: 75, signal.SIGINT: 130}
    long = {"epochs": 20, "checkpoint_minutes": 1000}
    whole = student("whole", **long)
    distill_together([whole], Silent())
    runs = {each: student(each.name, **long) for each in codes}
    started = {each: start_command(*command_of(settings)) for each, settings in runs.items()}
    waiting = dict(started)
    until = time.monotonic() + 100
    while waiting:
        assert time.monotonic() < until
        for each, process in list(waiting.items()):
            assert process.poll() is None
            if (runs[each].run / "metrics.jsonl").exists():
                process.send_signal(each)
                del waiting[each]
        time.sleep(0.001)
    for each, process in started.items():
        assert process.wait() == codes[each], process.errors
        assert process.output == ""
        assert re.fullmatch(
            rf"distill {each.name}: stopped by {each.name} and saved at epoch \d+, step \d+\. "
            r"Run the same command with --resume to continue\.",
            process.errors.splitlines()[-1],
        )
        assert "Traceback" not in process.errors
        run = runs[each].run
        assert (run / "checkpoint.pt").exists()
        assert not (run / "model.safetensors").exists()
        with pytest.raises(SystemExit) as ended:
            main([*command_of(runs[each]), "--resume"], prog_name="compress-ssl")
        assert ended.value.code == 0
        assert_same(load_file(run / "model.safetensors"), load_file(whole.run / "model.safetensors"))
        assert metrics(run) == metrics(whole.run)


def test_closed_terminal_ends_a_run_that_is_saved(student: Students) -> None:
    settings = student(epochs=10_000, checkpoint_minutes=1000)
    master, terminal = pty.openpty()
    process = start_command(*command_of(settings), terminal=os.ttyname(terminal))
    wait_until((settings.run / "metrics.jsonl").exists, process)
    os.close(terminal)
    os.close(master)  # the kernel sends SIGHUP, and nothing can be written any more
    assert process.wait() == 75
    state = torch.load(settings.run / "checkpoint.pt")
    assert (state["epoch"], state["step"]) > (0, 0)


@pytest.mark.parametrize("seconds", [0, 0.02])
def test_three_quick_ctrl_c_end_a_run_without_a_traceback(student: Students, seconds: float) -> None:
    settings = student(epochs=10_000)
    process = start_command(*command_of(settings))
    wait_until((settings.run / "metrics.jsonl").exists, process)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(seconds)
    assert process.wait() == 130, process.errors
    assert process.errors.splitlines()[-1].startswith(("Stopped", "distill"))
    assert "Traceback" not in process.errors
