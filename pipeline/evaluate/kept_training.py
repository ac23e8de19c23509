"""An unfinished training of classifiers, kept in a file after every epoch, so that the same command goes on with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from compress_ssl.storage.places.durable import write_durably

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


@dataclass(frozen=True)
class KeptTraining:
    """Where the state of a training lies; it is found again by what decides its course."""

    path: Path
    identity: dict[str, Any]
    """Network, images and settings; JSON."""

    def read(self, course: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """The state of this very training on the CPU; None if the file is missing, damaged or of another.

        Parameters
        ----------
        course : mapping
            What else tells this training from others that are kept here; JSON.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                if (file.metadata() or {}).get("training") != self._of(course):
                    return None
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError):
            return None

    def write(self, course: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
        """Keep a state in place of the last."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        write_durably(self.path, save(tensors, {"training": self._of(course)}))

    def remove(self) -> None:
        """Forget it: the training has ended."""
        self.path.unlink(missing_ok=True)

    def _of(self, course: Mapping[str, Any]) -> str:
        return json.dumps({**self.identity, **course}, sort_keys=True)
