"""The file from which an interrupted training of linear classifiers is resumed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from compress_ssl.pipeline.common.tensor_files import check_safetensors, safetensors_bytes
from compress_ssl.storage.places.durable import write_durably


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
                metadata = file.metadata() or {}
                if metadata.get("training") != self._key(part):
                    return None
                check_safetensors(self.path, metadata)
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError):
            return None

    def write(self, part: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
        """Replace the stored state."""
        write_durably(self.path, safetensors_bytes(state, {"training": self._key(part)}))

    def remove(self) -> None:
        """Delete the file and those of the parts, when the training has finished."""
        for path in (self.path, *self.path.parent.glob(f"{self.path.stem}-*{self.path.suffix}")):
            path.unlink(missing_ok=True)

    def of_part(self, name: str) -> "UnfinishedTraining":
        """Return a file of its own for a part that is finished before the rest begins."""
        return replace(self, path=self.path.with_stem(f"{self.path.stem}-{name}"))

    def _key(self, part: Mapping[str, Any]) -> str:
        return json.dumps({**self.identity, **part}, sort_keys=True)
