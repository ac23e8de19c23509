"""SGD of linear classifiers on frozen features, and the file from which an interrupted training is resumed."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer

from compress_ssl.storage.places.durable import write_durably

BatchT = TypeVar("BatchT")


def run_epochs(
    epochs: Iterable[Iterable[BatchT]],
    loss: Callable[[BatchT], Tensor],
    optimizer: Optimizer,
    learning_rate: Callable[[float, int, int], float],
    after_epoch: Callable[[int, int], None],
    first_epoch: int = 0,
    first_step: int = 0,
    zero_grad: Callable[[], object] | None = None,
) -> None:
    """Take one optimizer step per batch.

    Args:
        epochs (iterable of iterables of batches): Those from ``first_epoch`` on.
        loss: Computes the loss, a scalar, of a batch.
        optimizer (torch.optim.Optimizer): With the initial learning rate in each parameter group.
        learning_rate: Returns the learning rate of a group, given its initial one, the epoch and the step.
        after_epoch: Called with the numbers of epochs and steps done.
        zero_grad: Replaces the optimizer's, where gradients are views of one tensor.
    """
    initial = [group["lr"] for group in optimizer.param_groups]
    step, zero_grad = first_step, zero_grad or optimizer.zero_grad
    for epoch, batches in enumerate(epochs, first_epoch):
        for batch in batches:
            for group, rate in zip(optimizer.param_groups, initial, strict=True):
                group["lr"] = learning_rate(rate, epoch, step)
            zero_grad()
            loss(batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
        after_epoch(epoch + 1, step)


@dataclass(frozen=True)
class UnfinishedTraining:
    """File with the state of an interrupted training, for the same training to resume from."""

    path: Path
    identity: dict[str, Any]  # Network, images and settings, JSON-ready

    def read(self, part: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """Return the state on the CPU, or None if the file is missing, damaged or of another training.

        Args:
            part: Distinguishes several trainings of one evaluation; JSON-ready.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                if (file.metadata() or {}).get("training") != self._key(part):
                    return None
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError):
            return None

    def write(self, part: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
        """Replace the stored state."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        write_durably(self.path, save(tensors, {"training": self._key(part)}))

    def remove(self) -> None:
        """Delete the file, when the training has finished."""
        self.path.unlink(missing_ok=True)

    def _key(self, part: Mapping[str, Any]) -> str:
        return json.dumps({**self.identity, **part}, sort_keys=True)
