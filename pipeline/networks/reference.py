"""Network references: ``random/NAME``, ``torchvision/NAME``, ``timm/NAME``, ``NAME:PATH`` or a path."""

import re
from pathlib import Path
from typing import Literal, NamedTuple

REFERENCE_FORMS = "a run's folder, a checkpoint file, NAME:PATH, torchvision/NAME, timm/NAME or random/NAME"


class Reference(NamedTuple):
    """A parsed reference."""

    kind: Literal["random", "torchvision", "timm", "file"]
    name: str | None
    """An architecture (as ``build_backbone`` takes it) or, before a path, a teacher; None for a path alone."""
    path: Path | None  # of a run or a file; only for ``file``


def parse_reference(reference: str) -> Reference:
    """Parse a reference without checking its name; the disk is looked at only for paths that contain a colon."""
    name, colon, path = reference.partition(":")
    if colon and path and re.fullmatch(r"(timm/)?[\w.-]+", name) and not Path(reference).exists():
        return Reference("file", name, Path(path).expanduser())  # a shell does not expand a ~ after a colon
    kind, _, name = reference.partition("/")
    match kind:
        case "random" | "torchvision":
            return Reference(kind, name, None)
        case "timm":
            return Reference(kind, reference, None)
        case _:
            return Reference("file", None, Path(reference))
