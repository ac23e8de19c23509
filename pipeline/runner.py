"""Running a recipe's steps: each only if its settings or inputs have changed, or it was interrupted.

Beside the outputs a record is kept of every step's settings and inputs (``folder/steps/NAME.json``). A step is up to
date while they are the same and its output is there.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import xxhash

from pipeline.errors import InputError
from pipeline.recipe import Recipe, Step, plan_steps
from storage.durable import write_json_durably

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pipeline.progress import Progress

# These say how a step is run, not what comes out: a change of them makes nothing out of date.
HOW_NOT_WHAT = {"resume", "overwrite", "threads", "device", "checkpoint_minutes", "index_folder"}


@dataclass(frozen=True)
class Decision:
    """What is to be done about a step, and why."""

    step: Step
    action: str
    """``skip``, ``resume`` or ``run``."""
    why: str
    record: dict[str, Any]


def decide(step: Step, recipe: Recipe, records: Mapping[str, dict[str, Any]], data: str, *, force: bool) -> Decision:
    """Compare a step with the record of its last run.

    Parameters
    ----------
    records : mapping from the names of earlier steps to what they are made of now
    data : str
        Fingerprint of the data set.
    """
    record = {
        "settings": step.settings.model_dump(mode="json", exclude=HOW_NOT_WHAT),
        "inputs": {name: _digest(records[name]) for name in step.needs},
        "data": data,
    }
    before = _read_record(recipe, step.name)
    same = before is not None and all(before.get(key) == value for key, value in record.items())
    if before is None:
        return Decision(step, "run", "not run before", record)
    if same and not force:
        if before.get("finished") and step.output.exists():
            return Decision(step, "skip", "up to date", record)
        if not before.get("finished"):
            return Decision(step, "resume", "was interrupted", record)
        return Decision(step, "run", "its output is gone", record)
    return Decision(step, "run", "forced" if same else _difference(before, record), record)


def run_recipe(
    recipe: Recipe,
    steps: list[Step],
    progress: Progress,
    announce: Callable[[Decision], None],
    *,
    force: bool = False,
    dry_run: bool = False,
) -> None:
    """Run the steps that are out of date. An output that is made anew is first moved to ``NAME.previous``.

    Parameters
    ----------
    recipe : Recipe
    steps : list of Step
        Those to consider; the recipe's other steps are taken as they are.
    announce : callable
        Told of every decision before it is carried out.
    force : bool
        Run them all again.
    dry_run : bool
        Only announce.
    """
    data = _data_fingerprint(recipe.data)
    records: dict[str, dict[str, Any]] = {}
    stale: set[str] = set()
    for step in plan_steps(recipe):
        if step not in steps:
            records[step.name] = _read_record(recipe, step.name) or {}
            continue
        decision = decide(step, recipe, records, data, force=force)
        records[step.name] = decision.record
        if dry_run and decision.action == "skip" and stale.intersection(step.needs):
            decision = Decision(step, "run", "what it is made from will change", decision.record)
        announce(decision)
        if decision.action == "skip":
            continue
        stale.add(step.name)
        if not dry_run:
            _carry_out(decision, recipe, progress)


def _carry_out(decision: Decision, recipe: Recipe, progress: Progress) -> None:
    step = decision.step
    path = _record_path(recipe, step.name)
    recorded_before = path.exists()
    resume = decision.action == "resume" and "resume" in type(step.settings).model_fields
    if decision.action == "run" and recorded_before and step.output.exists():
        previous = step.output.with_name(f"{step.output.name}.previous")
        shutil.rmtree(previous, ignore_errors=True)
        step.output.rename(previous)
    write_json_durably(path, {**decision.record, "finished": False})
    _run_stage(step.stage, step.settings.model_copy(update={"resume": resume}), progress)
    write_json_durably(path, {**decision.record, "finished": True})


def _run_stage(stage: str, settings: Any, progress: Progress) -> None:
    if stage == "pretrain":
        from pipeline.pretrain.run import pretrain

        pretrain(settings, progress)
    elif stage == "embed":
        from pipeline.embed.run import embed

        embed(settings, progress)
    elif stage == "distill":
        from pipeline.distill.run import distill

        distill(settings, progress)
    else:
        from pipeline.evaluate.run import evaluate

        evaluate(settings, progress)


def evaluation_results(recipe: Recipe) -> list[Path]:
    """Result files of all finished evaluations of a recipe, in its order."""
    from pipeline.evaluate.run import RESULT_FILE

    results = [step.output / RESULT_FILE for step in plan_steps(recipe) if step.stage == "evaluate"]
    return [path for path in results if path.is_file()]


def _record_path(recipe: Recipe, name: str) -> Path:
    return recipe.folder / "steps" / f"{name.replace('/', '-')}.json"


def _read_record(recipe: Recipe, name: str) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(_record_path(recipe, name).read_bytes())
    except (OSError, ValueError):
        return None
    return record


def _digest(record: Mapping[str, Any]) -> str:
    made_of = {key: value for key, value in record.items() if key != "finished"}
    return xxhash.xxh3_128_hexdigest(json.dumps(made_of, sort_keys=True).encode())


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    old, new = before.get("settings", {}), now["settings"]
    changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    if changed:
        key = changed[0]
        return f"{key} was {old.get(key)!r}, is {new.get(key)!r}"
    inputs = [name for name, digest in now["inputs"].items() if before.get("inputs", {}).get(name) != digest]
    return f"'{inputs[0]}' was made anew" if inputs else "the images changed"


def _data_fingerprint(data: Path) -> str:
    """Hash of the names, sizes and times of all files of the data set."""
    if not data.is_dir():
        raise InputError(f"The data set '{data}' is not a folder; check the path.")
    digest = xxhash.xxh3_128()
    for path in sorted(data.rglob("*")):
        if path.is_file():
            stat = path.stat()
            digest.update(
                f"{path.relative_to(data)}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode("utf-8", "surrogateescape")
            )
    return digest.hexdigest()
