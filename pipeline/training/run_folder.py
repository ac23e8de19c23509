"""The folder of a run: create, resume or overwrite it, and record settings and inputs in it.

Rank 0 alone touches the folder; the other ranks wait until it is open.
"""

import contextlib
import glob
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compress_ssl.pipeline.common.device import library_versions
from compress_ssl.pipeline.common.errors import InputError, require_extra
from compress_ssl.pipeline.common.run_files import SETTINGS_FILE
from compress_ssl.pipeline.training.distributed import is_rank0, rank0_first
from compress_ssl.pipeline.training.settings import TrainingSettings
from compress_ssl.storage.places.durable import PARTIAL_SUFFIX, Held, write_json_durably
from compress_ssl.storage.places.place import writer_lease
from compress_ssl.storage.typed_files import read_json

Leases = Mapping[Path, Held]


def check_run_folder(settings: TrainingSettings, run: Path) -> None:
    """Check that a run may be written to a folder, before any work is done for it.

    Raises:
        InputError: If the folder holds a run that is neither to be resumed nor overwritten, or anything but a run; or
            if TensorBoard is not installed and ``tensorboard`` is set.
    """
    if not is_rank0():
        return
    if settings.tensorboard:
        require_extra("--tensorboard", "tensorboard", extra="tensorboard")
    if run.exists() and not run.is_dir():
        raise InputError(f"'{run}' is a file; give a folder for the run.")
    if _is_empty(run):
        return
    if not (run / SETTINGS_FILE).is_file():
        raise InputError(f"'{run}' is not empty and not a run; give another folder.")
    if not settings.resume and not settings.overwrite:
        raise InputError(f"The run '{run}' exists already; use --resume to resume it, or --overwrite to delete it.")


def _is_empty(run: Path) -> bool:
    return not run.is_dir() or all(path.name.endswith(PARTIAL_SUFFIX) for path in run.iterdir())


@contextlib.contextmanager
def run_leases(runs: Sequence[Path]) -> Iterator[Leases]:
    """Hold the writer's lease of each run inside the block; raise ``StoreBusyError`` if another process holds one.

    Yields:
        leases: ``Lease.held`` of each run, under which its files are written; on other ranks a context of nothing.
    """
    with contextlib.ExitStack() as at_exit:
        yield {
            run: at_exit.enter_context(writer_lease(run)).held if is_rank0() else contextlib.nullcontext for run in runs
        }


def open_runs(runs: Sequence[tuple[TrainingSettings, Path, Mapping[str, Any]]], leases: Leases) -> None:
    """Create the folders of runs (settings, folder, inputs), or check that those that exist can be resumed.

    All of them are checked before anything is written or deleted.

    Raises:
        InputError: If a folder is not empty and neither resume nor overwrite is asked for, or holds no run of these
            settings; or if it may not be deleted.
    """
    with rank0_first():
        if not is_rank0():
            return
        records = [
            {
                **settings.model_dump(mode="json", exclude={"resume", "overwrite"}),
                "inputs": dict(inputs),
                "versions": library_versions(),
            }
            for settings, _, inputs in runs
        ]
        for (settings, run, _), record in zip(runs, records, strict=True):
            check_run_folder(settings, run)
            if settings.resume and not _is_empty(run):
                _check_same_record(run, record, settings)
            elif not _is_empty(run):
                _check_may_delete(run)
        for (settings, run, _), record in zip(runs, records, strict=True):
            if settings.resume and not _is_empty(run):
                with leases[run]():
                    for left_by_a_killed_writer in run.glob(f"*{PARTIAL_SUFFIX}"):
                        left_by_a_killed_writer.unlink()
                continue
            if not _is_empty(run):
                _delete(run, leases[run])
            write_json_durably(run.resolve() / SETTINGS_FILE, record, leases[run])


def _check_may_delete(run: Path) -> None:
    for folder in (run.resolve().parent, *(Path(path) for path, _, _ in os.walk(run.resolve()))):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(
                f"The run '{run}' cannot be overwritten, because you may not change the folder '{folder}'; give "
                "another folder, or ask its owner."
            )


def _delete(run: Path, held: Held) -> None:
    """Delete a run, or what a link to one points to; a killed process leaves no half of it under its name."""
    run = run.resolve()
    for left_by_a_killed_process in run.parent.glob(f"{glob.escape(run.name)}.{32 * '[0-9a-f]'}.deleting"):
        shutil.rmtree(left_by_a_killed_process, ignore_errors=True)
    aside = run.with_name(f"{run.name}.{uuid.uuid4().hex}.deleting")
    with held():
        run.rename(aside)
    shutil.rmtree(aside)


def _check_same_record(run: Path, record: Mapping[str, Any], settings: TrainingSettings) -> None:
    """Check that a resumed run has its original settings and inputs; a setting added since must have its default."""
    path = run / SETTINGS_FILE
    before = read_json(path, dict[str, Any], otherwise="restore it, or start again with --overwrite")
    at_default = type(settings).model_fields.keys() - settings.model_dump(exclude_defaults=True).keys()
    free = settings.fields_with_role("path", "runtime") | {"versions"} | (at_default - before.keys())
    for name, value in record.items():
        if name not in free and before.get(name) != value:
            setting, was, now = _innermost_difference(name, before.get(name), value)
            raise InputError(
                f"'{run}' was started with {setting} = {was!r}, now it is {now!r}; resume with the same settings, "
                "start again with --overwrite, or give another folder."
            )


def _innermost_difference(name: str, before: Any, now: Any) -> tuple[str, Any, Any]:
    """Return the dotted name and both values of the first difference inside nested dicts and lists of dicts."""
    if isinstance(before, list) and isinstance(now, list) and all(isinstance(each, dict) for each in before + now):
        before, now = dict(enumerate(before)), dict(enumerate(now))
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in now | before if before.get(key) != now.get(key)]
        return _innermost_difference(f"{name}.{keys[0]}", before.get(keys[0]), now.get(keys[0]))
    return name, before, now
