"""The interface between the training loop and what it trains: tasks, and the stream of batches that they share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.training.distributed import convert_sync_batchnorm, is_rank0
from compress_ssl.pipeline.training.settings import TrainingSettings

BatchT = TypeVar("BatchT")

ScoreFunction = Callable[[Any], Mapping[str, float]]  # returns a network's scores by metric
LiveEvaluation = Callable[[Any, Any, Progress], ScoreFunction]
"""Returns the ``ScoreFunction`` for a training's settings and renderer. The commands' is ``recipe.live_evaluation``."""


@dataclass(frozen=True, kw_only=True)
class BatchStream(Generic[BatchT]):
    """Batches of every epoch, from any step on."""

    epochs: int
    images_per_epoch: int
    batch_size: int  # over all ranks; the last batch of an epoch may be smaller
    batches: Callable[[int, int], Iterator[BatchT]]
    """This rank's part of each batch of an epoch from a step on: (epoch, first step)."""
    waits: Callable[[], Mapping[str, float]] = dict
    """Seconds waited since the last call, by cause; logged once per epoch."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return math.ceil(self.images_per_epoch / self.batch_size)

    def images_in(self, step: int) -> int:
        """Return the number of images of a batch."""
        return min(self.batch_size, self.images_per_epoch - step * self.batch_size)


class TrainingTask(ABC, Generic[BatchT]):
    """One network in training: its modules, its loss, and hooks around the steps.

    Attributes:
        run: Folder of checkpoints, metrics and weights.
        modules (nn.ModuleDict): Everything with parameters or buffers; all of it is checkpointed.
        out_of_memory_hint: What to do when memory runs out, as the end of a sentence.
    """

    run: Path
    settings: TrainingSettings
    modules: nn.ModuleDict
    out_of_memory_hint: str = "lower --batch-size"

    def prepare_modules(self, device: torch.device, networks: Iterable[nn.Module]) -> None:
        """Move ``modules`` to a device in training mode, with the settings' batch norm and memory format.

        Args:
            networks: Those to compile, if asked for.
        """
        if self.settings.sync_bn:
            convert_sync_batchnorm(self.modules, device)
        self.modules.train().to(device)
        if self.settings.memory_format == "channels_last":
            self.modules.to(memory_format=torch.channels_last)
        if self.settings.compile:
            for network in networks:
                network.compile()

    def micro_batches(self, batch: BatchT) -> Sequence[Any]:
        """Split a batch into equal micro-batches for gradient accumulation."""
        return (batch,)

    @abstractmethod
    def loss(self, micro_batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (a scalar) of one micro-batch, and scalars to log."""

    def before_training(self, epoch: int, step: int) -> Mapping[str, float]:
        """Rebuild state that checkpoints omit, before the step (epoch, step); return scores to log."""
        return {}

    def after_step(self) -> None:
        """Update what the optimizer does not; called after each of its steps."""

    def evaluate(self) -> Mapping[str, float]:
        """Return the scores of the network as it is now."""
        return {}

    @abstractmethod
    def save_network(self, folder: Path) -> None:
        """Write the network to a folder."""


def make_score_function(
    settings: TrainingSettings, renderer: Any, progress: Progress, live: LiveEvaluation | None
) -> ScoreFunction | None:
    """Return the score function that the settings ask for; None without live evaluation and on ranks other than 0.

    Raises:
        InputError: If live evaluation is asked for and ``live`` is None, or as ``live`` raises.
    """
    if settings.live_every is None or not is_rank0():
        return None
    if live is None:
        raise InputError(
            "live_every is set, but no live evaluation was passed; pass "
            "compress_ssl.pipeline.recipe.live_evaluation.live_evaluation."
        )
    return live(settings, renderer, progress)
