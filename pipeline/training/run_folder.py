"""The folder of a run: create, resume or overwrite it, and record settings and inputs in it.

Rank 0 alone touches the folder; the other ranks wait until it is open.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compress_ssl.pipeline.common.device import library_versions
from compress_ssl.pipeline.common.errors import InputError, require_extra
from compress_ssl.pipeline.common.run_files import SETTINGS_FILE
from compress_ssl.pipeline.training.distributed import is_rank0, rank0_first
from compress_ssl.pipeline.training.settings import TrainingSettings
from compress_ssl.storage.places.durable import PARTIAL_SUFFIX, json_bytes, write_json_durably
from compress_ssl.storage.places.lease import held_over
from compress_ssl.storage.places.local import LocalPath
from compress_ssl.storage.places.place import writer_lease
from compress_ssl.storage.typed_files import read_json


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
def run_leases(runs: Sequence[Path]) -> Iterator[None]:
    """Hold the writer's lease of each run inside the block; raise ``StoreBusyError`` if another process holds one."""
    with contextlib.ExitStack() as held:
        for run in runs if is_rank0() else ():
            held.enter_context(writer_lease(run))
        yield


def check_lease(run: Path) -> None:
    """Raise ``StoreBusyError`` if another process has taken the lease that this one had of a run."""
    with held_over(run):
        pass


def open_runs(runs: Sequence[tuple[TrainingSettings, Path, Mapping[str, Any]]]) -> None:
    """Create the folders of runs (settings, folder, inputs), or check that those that exist can be resumed.

    All of them are checked before anything is written or deleted.

    Raises:
        InputError: If a folder is not empty and neither resume nor overwrite is asked for, or holds no run of these
            settings.
        StoreError: If it may not be deleted.
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
                LocalPath(run).resolve().check_deletable()
        for (settings, run, _), record in zip(runs, records, strict=True):
            if _is_empty(run):
                (LocalPath(run).resolve() / SETTINGS_FILE).write_durably(json_bytes(record))
                continue
            check_lease(run)
            LocalPath(run).sweep_partial_files()
            if not settings.resume:
                with LocalPath(run).replaced() as new:
                    write_json_durably(new / SETTINGS_FILE, record)


def _check_same_record(run: Path, record: Mapping[str, Any], settings: TrainingSettings) -> None:
    """Check that a resumed run has its original settings and inputs; a setting added since must have its default."""
    path = run / SETTINGS_FILE
    before = read_json(path, dict[str, Any], otherwise="restore it, or start again with --overwrite")
    at_default = type(settings).model_fields.keys() - settings.model_dump(exclude_defaults=True).keys()
    free = settings.fields_with_role("path", "runtime") | {"versions"} | (at_default - before.keys())
    for name, value in record.items():
        if name not in free and before.get(name) != value:
            setting, was, now = _innermost_difference(name, before.get(name), value)
            same = "settings and number of processes" if settings.keep_last else "settings"
            raise InputError(
                f"'{run}' was started with {setting} = {was!r}, now it is {now!r}; resume with the same {same}, "
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
