"""Read and write a run's checkpoint, from which training resumes exactly."""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.run_files import CHECKPOINT_FILE
from compress_ssl.storage.places.durable import write_durably


def save_checkpoint(run: Path, state: Mapping[str, Any]) -> None:
    """Write ``checkpoint.pt`` atomically."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_durably(run / CHECKPOINT_FILE, buffer.getbuffer())


def load_checkpoint(run: Path, device: torch.device) -> dict[str, Any] | None:
    """Read ``checkpoint.pt`` onto a device; None if there is none yet, ``InputError`` if it cannot be read."""
    path = run / CHECKPOINT_FILE
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(
            f"The checkpoint '{path}' cannot be read ({first_line(error)}); restore it, or start again with "
            "--overwrite."
        ) from error
    return state


def first_line(error: BaseException) -> str:
    """Return the first line of torch's message, short enough for one sentence."""
    return str(error).partition("\n")[0].rstrip(": ") or "the file is truncated"
