"""The interface between the training loop and what it trains: tasks, and the stream of batches that they share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from compress_ssl.pipeline.training.settings import TrainingSettings

BatchT = TypeVar("BatchT")


@dataclass(frozen=True)
class BatchStream(Generic[BatchT]):
    """Batches of every epoch, from any step on."""

    epochs: int
    steps_per_epoch: int
    batch_size: int  # over all ranks
    batches: Callable[[int, int], Iterator[BatchT]]
    """This rank's part of each batch of an epoch from a step on: (epoch, first step)."""
    waits: Callable[[], Mapping[str, float]] = dict
    """Seconds waited since the last call, by cause; logged once per epoch."""


class TrainingTask(ABC, Generic[BatchT]):
    """One network in training: its modules, its loss, and hooks around the steps.

    Attributes:
        run: Folder of checkpoints, metrics and weights.
        settings (TrainingSettings)
        modules (nn.ModuleDict): Everything with parameters or buffers; all of it is checkpointed.
        out_of_memory_hint: What to do when memory runs out, as the end of a sentence.
    """

    run: Path
    settings: TrainingSettings
    modules: nn.ModuleDict
    out_of_memory_hint: str = "lower --batch-size"

    def micro_batches(self, batch: BatchT) -> Sequence[Any]:
        """Split a batch into equal micro-batches for gradient accumulation."""
        return (batch,)

    @abstractmethod
    def loss(self, micro_batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (a scalar) of one micro-batch, and scalars to log."""

    def before_training(self, epoch: int, step: int) -> None:
        """Rebuild state that checkpoints omit; called once, before the step (epoch, step)."""

    def after_step(self) -> None:
        """Update what the optimizer does not; called after each of its steps."""

    def evaluate(self) -> Mapping[str, float]:
        """Return the scores of the network as it is now."""
        return {}

    @abstractmethod
    def save_network(self, folder: Path) -> None:
        """Write the network to a folder."""
