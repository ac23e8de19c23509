"""What a string says of a network: ``random/NAME``, ``torchvision/NAME``, ``timm/NAME``, ``NAME:PATH`` or a path."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple

KINDS = ("random", "torchvision", "timm")

REFERENCE_FORMS = "a run's folder, a checkpoint file, NAME:PATH, torchvision/NAME, timm/NAME or random/NAME"


class Reference(NamedTuple):
    """Where a network comes from."""

    kind: Literal["random", "torchvision", "timm", "file"]
    name: str | None
    """Of an architecture (as ``build_backbone`` takes it) or, before a path, of a teacher; a path alone has none."""
    path: Path | None
    """Of a run or a file; only of kind ``file``."""


def parse_reference(reference: str) -> Reference:
    """Take a reference apart; whether what it names exists is not looked at, but for paths that hold a colon."""
    name, colon, path = reference.partition(":")
    if colon and path and re.fullmatch(r"(timm/)?[\w.-]+", name) and not Path(reference).exists():
        return Reference("file", name, Path(path).expanduser())  # a shell leaves a ~ after a colon as it is
    kind, _, name = reference.partition("/")
    match kind:
        case "random" | "torchvision":
            return Reference(kind, name, None)
        case "timm":
            return Reference(kind, reference, None)
        case _:
            return Reference("file", None, Path(reference))
