"""The file that a training is resumed from, checked when it is read: its bytes, types, position and weights."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import ConfigDict, Field, NonNegativeInt, model_validator
from torch import Tensor

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.run_files import CHECKPOINT_FILE
from compress_ssl.pipeline.common.tensor_files import check_archive
from compress_ssl.pipeline.common.torch_errors import first_line, is_out_of_memory
from compress_ssl.storage.errors import UnreadableFileError
from compress_ssl.storage.places.durable import naming
from compress_ssl.storage.places.place import location
from compress_ssl.storage.typed_json import FileModel, check_value

START_AGAIN = "restore it, or start again with --overwrite"


class _PendingMetrics(FileModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    sums: dict[str, Tensor]
    additions: NonNegativeInt

    @model_validator(mode="after")
    def _are_means(self) -> Self:
        if self.sums and (not self.additions or any(total.ndim for total in self.sums.values())):
            raise ValueError("sums of scalars and their number are needed")
        return self


class _Content(FileModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    modules: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, float]
    best: float = Field(allow_inf_nan=False)
    epoch: NonNegativeInt
    step: NonNegativeInt
    pending_metrics: _PendingMetrics


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of a training."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    location(folder / CHECKPOINT_FILE).write_durably(buffer.getbuffer())


def read_checkpoint(run: Path, device: torch.device) -> dict[str, Any] | None:
    """Return the state in a run's checkpoint, with the types that ``write_checkpoint`` got; None if there is none.

    Raises:
        InputError: If it cannot be read.
        UnreadableFileError: If it holds something else.
    """
    path = run / CHECKPOINT_FILE
    if not path.exists():
        return None
    if not path.is_file():
        raise UnreadableFileError(path, "is not a regular file", START_AGAIN)
    with naming(path):
        content = path.read_bytes()  # zipfile would hide an error of the disk
    try:
        check_archive(io.BytesIO(content))
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # the unpickler raises many types on damaged bytes
        if is_out_of_memory(error):
            raise
        raise InputError(f"The checkpoint '{path}' cannot be read ({first_line(error)}); {START_AGAIN}.") from error
    check_value(path, state, _Content, otherwise=START_AGAIN)
    return state


@contextlib.contextmanager
def explain_mismatch(run: Path) -> Iterator[None]:
    """Raise ``InputError`` if the state of a checkpoint does not fit in the block."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"The checkpoint in '{run}' does not fit this training ({first_line(error)}); start again with --overwrite."
        ) from error


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load an optimizer's state, but no settings; raise ``ValueError`` if it is of another optimizer or network."""
    optimizer.load_state_dict({**optimizer.state_dict(), "state": saved["state"]})
    for parameter, found in optimizer.state.items():
        shape = parameter.shape
        adam = {"step": torch.Size(), "exp_avg": shape, "exp_avg_sq": shape}
        wanted = adam if isinstance(optimizer, torch.optim.AdamW) else {"momentum_buffer": shape}
        if {name: value.shape for name, value in found.items()} != wanted:
            raise ValueError(f"the optimizer has {', '.join(found)} of other shapes or of another optimizer")
