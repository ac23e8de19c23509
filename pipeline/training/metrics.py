"""Metrics of a run: means over steps, as JSON lines and, if asked for, for TensorBoard."""

import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress_ssl.pipeline.common.errors import RunError
from compress_ssl.pipeline.common.run_files import METRICS_FILE
from compress_ssl.pipeline.training.distributed import all_reduce_mean, is_rank0
from compress_ssl.storage.errors import UnreadableFileError
from compress_ssl.storage.places.durable import naming
from compress_ssl.storage.places.lease import held_over
from compress_ssl.storage.places.place import location
from compress_ssl.storage.typed_files import read_bounded
from compress_ssl.storage.typed_json import FileModel, parse_json

logger = logging.getLogger(__name__)

MAX_METRICS_BYTES = 2**30


class _Line(FileModel):
    epoch: int
    step: int


def truncate_metrics(run: Path, epoch: int, step: int) -> None:
    """Drop the logged metrics of the steps after (epoch, step), which a resumed run repeats, and damaged lines."""
    path = run / METRICS_FILE
    if not is_rank0() or not path.exists():
        return
    kept = []
    *lines, _cut_short = read_bounded(path, MAX_METRICS_BYTES).split(b"\n")  # empty, but of a killed run
    for number, line in enumerate(lines, 1):
        try:
            entry = parse_json(path, line, _Line)
        except UnreadableFileError as error:
            logger.warning("Line %d of '%s' %s; it is left out.", number, path, error.fault)
            continue
        if (entry.epoch, entry.step) <= (epoch, step):
            kept.append(line + b"\n")
    location(path).write_durably(b"".join(kept))


class MetricsLog:
    """Accumulate the scalars of steps and log their means over ranks; rank 0 writes."""

    data_wait_seconds: float
    """Seconds waited for batches since the last line; to be added to."""
    _sums: dict[str, Tensor]

    def __init__(
        self, run: Path, *, steps_per_epoch: int, tensorboard: bool, done: int, pending: Mapping[str, Any] | None = None
    ) -> None:
        """Open the log after ``done`` steps, with the ``pending`` sums of a checkpoint."""
        self._run = run
        self._steps_per_epoch = steps_per_epoch
        self._board: Any = None
        if tensorboard and is_rank0():
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(run / "tensorboard", purge_step=done + 1)
        self._reset()
        if pending is not None:
            self._sums, self._additions = dict(pending["sums"]), int(pending["additions"])

    def _reset(self) -> None:
        self._sums = {}
        self._additions = self._images = 0
        self.data_wait_seconds = 0.0
        self._since = time.monotonic()

    def add(self, values: Mapping[str, Tensor], images: int) -> None:
        """Add the scalars of one micro-batch; the sums stay on the device, which reading would synchronize."""
        self._sums = {name: self._sums.get(name, torch.zeros_like(value)) + value for name, value in values.items()}
        self._additions += 1
        self._images += images

    def pending(self) -> dict[str, Any]:
        """Return the sums since the last logged line, for a checkpoint; a collective call."""
        return {"sums": all_reduce_mean(self._sums), "additions": self._additions}

    def close(self) -> None:
        """Close TensorBoard's writer."""
        if self._board is not None:
            self._board.close()

    def write_means(self, epoch: int, step: int, **others: float) -> None:
        """Log the means since the last line, pace, wait and other values; ``RunError`` if a mean is not finite."""
        values = {name: float(total) / self._additions for name, total in all_reduce_mean(self._sums).items()}
        if not all(map(math.isfinite, values.values())):
            raise RunError(
                f"The loss of '{self._run}' is no longer finite (epoch {epoch}, at step {step} or shortly before); "
                "start again with --overwrite and a lower --learning-rate or a higher --temperature."
            )
        others["images_per_second"] = self._images / (time.monotonic() - self._since)
        self.write(epoch, step, {**values, **others, "data_wait_seconds": self.data_wait_seconds})
        self._reset()

    def write(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Log one line of values."""
        if not is_rank0():
            return
        path, line = self._run / METRICS_FILE, json.dumps({"epoch": epoch, "step": step, **values}) + "\n"
        with held_over(self._run), naming(path), path.open("a", encoding="utf-8") as file:
            file.write(line)
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, epoch * self._steps_per_epoch + step)
            self._board.flush()
