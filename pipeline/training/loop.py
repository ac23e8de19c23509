"""The training loop: steps, metrics, checkpoints, and going on where a killed run stopped."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from pipeline.errors import InputError, RunError
from pipeline.training.checkpoint import (
    METRICS_FILE,
    SETTINGS_FILE,
    check_same_record,
    keep_metrics_until,
    load_checkpoint,
    run_record,
    save_checkpoint,
)
from pipeline.training.schedule import learning_rate, make_optimizer
from storage.durable import write_json_durably

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor, nn

    from pipeline.progress import Progress
    from pipeline.training.settings import TrainingSettings

logger = logging.getLogger(__name__)

BatchT = TypeVar("BatchT")

STEPS_A_LINE = 50
"""Steps between two lines of metrics; every epoch's end has one too."""


@dataclass(frozen=True)
class Training(Generic[BatchT]):
    """What is trained, and how a step of it goes."""

    modules: nn.ModuleDict
    """Everything with parameters or buffers; all of it goes into the checkpoint."""
    steps_per_epoch: int
    batch_size: int
    batches: Callable[[int, int], Iterator[BatchT]]
    """Batches of an epoch from a step on: (epoch, first step)."""
    loss: Callable[[BatchT], tuple[Tensor, dict[str, Tensor]]]
    """Loss of a batch, and scalars to log beside it."""
    after_step: Callable[[], None] = lambda: None
    """Called after each of the optimiser's steps."""


def open_run(run: Path, settings: TrainingSettings, inputs: dict[str, Any]) -> None:
    """Make a run's folder, or check that the one there can be gone on with.

    Raises
    ------
    InputError
        If the folder is not empty and neither resume nor overwrite is asked for, or is not a run of these settings.
    """
    record = run_record(settings, inputs)
    is_run = (run / SETTINGS_FILE).is_file()
    if run.exists() and not run.is_dir():
        raise InputError(f"'{run}' is a file; give a folder for the run.")
    if run.is_dir() and any(run.iterdir()):
        if settings.resume and is_run:
            check_same_record(run, record)
            return
        if settings.overwrite and is_run:
            shutil.rmtree(run)
        elif is_run:
            raise InputError(
                f"The run '{run}' exists already; use --resume to go on with it, or --overwrite to delete it."
            )
        else:
            raise InputError(f"'{run}' is not empty and not a run; give another folder.")
    write_json_durably(run / SETTINGS_FILE, record)


def train(run: Path, settings: TrainingSettings, training: Training[BatchT], title: str, progress: Progress) -> None:
    """Train to the end of the last epoch, from the checkpoint if there is one.

    Raises
    ------
    RunError
        If the loss or a weight is no longer a number; the last good checkpoint stays.
    InputError
        If the checkpoint cannot be read.
    """
    steps = training.steps_per_epoch
    optimizer = make_optimizer(settings, training.modules.parameters())
    device = next(training.modules.parameters()).device
    epoch, step = _restore(run, training, optimizer, device)
    log = _Log(run, training.batch_size)
    saved = time.monotonic()
    with progress.track(title, settings.epochs * steps * training.batch_size) as advance:
        advance((epoch * steps + step) * training.batch_size)
        while epoch < settings.epochs:
            for batch in training.batches(epoch, step):
                rate = learning_rate(settings, epoch, step, steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                loss, diagnostics = training.loss(batch)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                training.after_step()
                step += 1
                advance(training.batch_size)
                log.add({"loss": loss.detach(), **diagnostics})
                if step % STEPS_A_LINE == 0 or step == steps:
                    log.write(epoch, step, rate)
                if step < steps and time.monotonic() - saved > 60 * settings.checkpoint_minutes:
                    _save(run, training, optimizer, epoch, step)
                    saved = time.monotonic()
            epoch, step = epoch + 1, 0
            _save(run, training, optimizer, epoch, step)
            saved = time.monotonic()


def _restore(
    run: Path, training: Training[BatchT], optimizer: torch.optim.Optimizer, device: torch.device
) -> tuple[int, int]:
    """Epoch and step to go on from; the state is loaded in place."""
    state = load_checkpoint(run, device)
    if state is None:
        keep_metrics_until(run, 0, 0)
        return 0, 0
    try:
        training.modules.load_state_dict(state["modules"])
        optimizer.load_state_dict(state["optimizer"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise InputError(
            f"The checkpoint in '{run}' does not fit these networks ({error}); begin again with --overwrite."
        ) from error
    keep_metrics_until(run, state["epoch"], state["step"])
    logger.info("Going on with '%s' at epoch %d, step %d.", run, state["epoch"], state["step"])
    return state["epoch"], state["step"]


def _save(run: Path, training: Training[BatchT], optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:
    broken = [name for name, value in training.modules.named_parameters() if not bool(torch.isfinite(value).all())]
    if broken:
        raise RunError(
            f"After epoch {epoch}, step {step}, the weights '{broken[0]}' are not numbers; lower --learning-rate. "
            f"The last good checkpoint is in '{run}'."
        )
    save_checkpoint(
        run,
        {
            "modules": training.modules.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epoch": epoch,
            "step": step,
        },
    )


class _Log:
    """Means of what steps report, written as JSON lines."""

    def __init__(self, run: Path, batch_size: int) -> None:
        self._run = run
        self._batch_size = batch_size
        self._begin()

    def _begin(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._since = time.monotonic()

    def add(self, values: dict[str, Tensor]) -> None:
        # Sums stay on the device: reading them at every step would make it wait.
        self._sums = {name: self._sums.get(name, torch.zeros_like(value)) + value for name, value in values.items()}
        self._steps += 1

    def write(self, epoch: int, step: int, rate: float) -> None:
        means = {name: float(total) / self._steps for name, total in self._sums.items()}
        if not all(map(math.isfinite, means.values())):
            raise RunError(
                f"The loss is not a number any more (epoch {epoch}, within {self._steps} steps of step {step}); lower "
                f"--learning-rate or raise --temperature. The last good checkpoint is in '{self._run}'."
            )
        line = {
            "epoch": epoch,
            "step": step,
            **means,
            "learning_rate": rate,
            "images_per_second": self._steps * self._batch_size / (time.monotonic() - self._since),
        }
        with (self._run / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._begin()
