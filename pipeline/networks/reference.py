"""Network references: ``random/NAME``, ``torchvision/NAME``, ``timm/NAME``, ``NAME:FILE``, a path, or a user's network.

A user's is ``MODULE:FUNCTION``, or the name of one that a package or the process has registered; a file or folder of
that name comes first.
``#PART`` after a file chooses among its state dicts, as in ``resnet50:checkpoint.pth.tar#state_dict_ema``.
"""

import logging
import re
from pathlib import Path
from typing import Literal, NamedTuple

from compress_ssl.pipeline.networks.architectures import architecture_names
from compress_ssl.pipeline.networks.teachers import TEACHERS
from compress_ssl.pipeline.networks.user_networks import is_users

REFERENCE_FORMS = (
    "a run's folder, a checkpoint file, NAME:PATH, torchvision/NAME, timm/NAME, random/NAME or MODULE:FUNCTION"
)

TORCHVISION = "torchvision/"

logger = logging.getLogger(__name__)


class Reference(NamedTuple):
    """A parsed reference."""

    kind: Literal["random", "torchvision", "timm", "file", "user"]
    name: str | None
    """An architecture (as ``build_backbone`` takes it), before a path also a teacher; a user's network; None for a path
    alone."""
    path: Path | None  # of a run or a file; only for ``file``, and for torchvision's weights from a file
    part: str | None = None  # key of a state dict in the file, or what its names start with; None for the usual one


def parse_reference(reference: str) -> Reference:
    """Parse a reference without checking its name; the disk is looked at only for paths that may be something else."""
    name, colon, path = reference.partition(":")
    if is_users(reference) and not Path(reference).exists():
        if name not in TEACHERS and name not in architecture_names() and not (colon and Path(path).exists()):
            return Reference("user", reference, None)
        if not colon:
            logger.warning("'%s' is also the name of a network of a package or this process; ours is taken.", name)
    if colon and path and re.fullmatch(r"((timm|torchvision)/)?[\w.-]+", name) and not Path(reference).exists():
        kind: Literal["torchvision", "file"] = "torchvision" if name.startswith(TORCHVISION) else "file"
        return Reference(kind, name.removeprefix(TORCHVISION), *file_and_part(path))
    kind_or_folder, _, name = reference.partition("/")
    match kind_or_folder:
        case "random" | "torchvision":
            return Reference(kind_or_folder, name, None)
        case "timm":
            return Reference(kind_or_folder, reference, None)
        case _:
            return Reference("file", None, *file_and_part(reference))


def with_absolute_path(reference: str) -> str:
    """Return a reference whose path, if it has one, is absolute."""
    kind, name, path, part = parse_reference(reference)
    if path is None:
        return reference
    source = TORCHVISION if kind == "torchvision" else ""
    return f"{f'{source}{name}:' if name else ''}{path.absolute()}{f'#{part}' if part else ''}"


def file_and_part(text: str) -> tuple[Path, str | None]:
    """Split ``FILE#PART``; the part is None if there is none."""
    file, mark, part = text.rpartition("#")
    if not (file and mark and part) or "/" in part or Path(text).expanduser().exists():
        file, part = text, ""
    return Path(file).expanduser(), part or None  # a shell does not expand a ~ after a colon
