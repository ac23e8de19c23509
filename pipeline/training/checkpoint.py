"""Saving a training so that it can go on as if nothing had happened."""

from __future__ import annotations

import io
import json
import pickle
from typing import TYPE_CHECKING, Any

import torch

from pipeline.errors import InputError
from pipeline.machine import library_versions
from pipeline.settings import HOW, WHERE
from storage.durable import write_durably

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.training.settings import TrainingSettings

CHECKPOINT_FILE = "checkpoint.pt"
SETTINGS_FILE = "settings.json"

FREE_TO_CHANGE = HOW | WHERE | {"versions"}
"""A training may go on with other values of these."""


def save_checkpoint(run: Path, state: Mapping[str, Any]) -> None:
    """Write ``checkpoint.pt``, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_durably(run / CHECKPOINT_FILE, buffer.getbuffer())


def load_checkpoint(run: Path, device: torch.device) -> dict[str, Any] | None:
    """Read ``checkpoint.pt``; None where there is none yet.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    path = run / CHECKPOINT_FILE
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(
            f"The checkpoint '{path}' cannot be read ({first_line(error)}); restore it, or begin again with "
            "--overwrite."
        ) from error
    return state


def first_line(error: BaseException) -> str:
    """As much of torch's explanation as goes into a sentence."""
    return str(error).partition("\n")[0].rstrip(": ") or "it is cut short"


def run_record(settings: TrainingSettings, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What a run says of itself in ``settings.json``: its settings, what it was made from, the versions."""
    return {
        **settings.model_dump(mode="json", exclude={"resume", "overwrite"}),
        "inputs": dict(inputs),
        "versions": library_versions(),
    }


def check_same_record(run: Path, record: Mapping[str, Any]) -> None:
    """Check that a run is gone on with by the settings and inputs it was begun with.

    Raises
    ------
    InputError
        Naming the first setting that differs.
    """
    path = run / SETTINGS_FILE
    try:
        before = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' cannot be read ({error}); begin again with --overwrite.") from error
    for name, value in record.items():
        if name not in FREE_TO_CHANGE and before.get(name) != value:
            where, was, now = _innermost_difference(name, before.get(name), value)
            raise InputError(
                f"'{run}' was begun with {where} = {was!r}, now it is {now!r}; resume with the same settings, or give "
                "another folder."
            )


def _innermost_difference(name: str, before: Any, now: Any) -> tuple[str, Any, Any]:
    """Where two values of a setting differ first, inside tables and lists of tables: its name and the two."""
    if isinstance(before, list) and isinstance(now, list) and all(isinstance(each, dict) for each in before + now):
        before, now = dict(enumerate(before)), dict(enumerate(now))
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in now | before if before.get(key) != now.get(key)]
        return _innermost_difference(f"{name}.{keys[0]}", before.get(keys[0]), now.get(keys[0]))
    return name, before, now
