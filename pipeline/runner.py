"""Running a recipe's steps: each only if its settings or inputs have changed, or it was interrupted.

Beside the outputs a record is kept of what every step was made from (``folder/steps/NAME.json``): its settings, the
content of the stores and networks it used, the names, sizes and times of the images it read. A step is up to date
while they are the same and its output is there. Where things lie does not count: a folder may be moved.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from pipeline.errors import InputError, unknown_name
from pipeline.images.sources.open_source import open_source
from pipeline.recipe import PREVIOUS, UNFINISHED, Recipe, Step, plan_steps
from pipeline.settings import ImageSelection
from storage.durable import write_json_durably

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pipeline.progress import Progress

# These say how or where a step is run, not what comes out: a change of them makes nothing out of date.
HOW = {"resume", "overwrite", "threads", "device", "checkpoint_minutes", "index_folder"}
WHERE = {"data", "store", "run", "output", "subset"}


@dataclass(frozen=True)
class Decision:
    """What is to be done about a step, and why."""

    step: Step
    action: str
    """``skip``, ``resume`` or ``run``."""
    why: str
    record: dict[str, Any]
    """What the step is made from now."""


def decide(step: Step, steps: Mapping[str, Step], recipe: Recipe, *, force: bool) -> Decision:
    """Compare what a step is made from with the record of its last run.

    Parameters
    ----------
    steps : mapping
        All steps of the recipe, by name.
    """
    record = {
        "settings": step.settings.model_dump(mode="json", exclude=HOW | WHERE | _places(step)),
        "inputs": _inputs(step, steps),
        "images": {folder: _fingerprint(recipe, folder) for folder in _folders(step)},
    }
    before = _read_record(recipe, step.name)
    if before is None:
        return Decision(step, "run", "not run before", record)
    if change := _difference(before, record):
        return Decision(step, "run", change, record)
    if force:
        return Decision(step, "run", "forced", record)
    if not before.get("finished"):
        return Decision(step, "resume", "was interrupted", record)
    if not _result(step).is_file():
        return Decision(step, "run", "its output is gone", record)
    return Decision(step, "skip", "up to date", record)


def run_recipe(
    recipe: Recipe,
    steps: list[Step],
    progress: Progress,
    announce: Callable[[Decision], None],
    *,
    force: bool = False,
    dry_run: bool = False,
) -> None:
    """Run the steps that are out of date.

    An output that is made anew is first moved to ``NAME.previous``, or ``NAME.unfinished`` if it was interrupted.

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

    Raises
    ------
    InputError
        If the data, a name, or what a step needs is not there; or as the stages.
    """
    all_steps = {step.name: step for step in plan_steps(recipe)}
    _check_before_the_first_step(steps, recipe)
    made: set[str] = set()
    for step in steps:
        for name in step.needs:
            if name not in made and not _is_finished(recipe, all_steps[name]):
                raise InputError(f"Step '{step.name}' needs '{name}', which is not finished; run that one first.")
        decision = decide(step, all_steps, recipe, force=force)
        if dry_run and decision.action != "run" and (changing := made.intersection(step.needs)):
            decision = Decision(step, "run", f"'{changing.pop()}' will be made anew", decision.record)
        announce(decision)
        if decision.action == "skip":
            continue
        made.add(step.name)
        if not dry_run:
            _carry_out(decision, recipe, progress)


def _carry_out(decision: Decision, recipe: Recipe, progress: Progress) -> None:
    step = decision.step
    before = _read_record(recipe, step.name)
    if decision.action == "run" and step.output.exists():
        if before is None and step.stage != "evaluate":
            raise InputError(
                f"'{step.output}' is there, but was not made by this recipe; move it away, or give another folder."
            )
        if before is not None:
            _move_aside(step.output, PREVIOUS if before.get("finished") else UNFINISHED)
    path = _record_path(recipe, step.name)
    write_json_durably(path, {**decision.record, "finished": False})
    resume = decision.action == "resume" and "resume" in type(step.settings).model_fields
    _run_stage(step.stage, step.settings.model_copy(update={"resume": resume}), progress)
    write_json_durably(path, {**decision.record, "finished": True})


def _move_aside(output: Path, suffix: str) -> None:
    aside = output.with_name(f"{output.name}{suffix}")
    shutil.rmtree(aside, ignore_errors=True)
    output.rename(aside)


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


def _is_finished(recipe: Recipe, step: Step) -> bool:
    return bool((_read_record(recipe, step.name) or {}).get("finished")) and _result(step).is_file()


def _result(step: Step) -> Path:
    """The file that a finished step leaves."""
    if step.stage == "embed":
        return step.output / "zarr.json"
    if step.stage == "evaluate":
        from pipeline.evaluate.run import RESULT_FILE

        return step.output / RESULT_FILE
    from pipeline.networks.network import MODEL_FILE

    return step.output / MODEL_FILE


def _check_before_the_first_step(steps: Iterable[Step], recipe: Recipe) -> None:
    """Find the mistakes that would otherwise end a step hours from now."""
    from pipeline.networks.architectures import architecture_names

    known = architecture_names()
    for step in steps:
        name = getattr(step.settings, "student", None) or getattr(step.settings, "arch", None)
        if name is not None and name not in known:
            raise unknown_name("architecture", name, known)
        for folder in _folders(step):
            open_source(recipe.data, folder)


def _places(step: Step) -> set[str]:
    """Settings that only say where the output of an earlier step lies."""
    return {"teacher", "model"} if step.needs else set()


def _inputs(step: Step, steps: Mapping[str, Step]) -> dict[str, str | None]:
    """Content of what the step uses besides images: outputs of other steps, stores and networks given by a path."""
    used = {name: steps[name].output for name in step.needs}
    if not step.needs:
        for key in ("store", "teacher", "model"):
            given = getattr(step.settings, key, None)
            if given is not None and Path(given) != step.output and Path(given).exists():
                used[key] = Path(given)
    if isinstance(step.settings, ImageSelection) and step.settings.subset is not None:
        used["subset"] = step.settings.subset
    return {name: _content(path) for name, path in used.items()}


def _content(path: Path) -> str | None:
    """Hash of a network's file, or of a store's metadata and commit records (they hold the hash of every part)."""
    from pipeline.networks.network import MODEL_FILE

    if (path / "zarr.json").is_file():
        files = sorted(path.rglob("*.json"))
    else:
        files = [path / MODEL_FILE if path.is_dir() else path]
    if not all(file.is_file() for file in files):
        return None
    digest = xxhash.xxh3_128()
    for file in files:
        digest.update(os.fsencode(f"{file.relative_to(path)}\0"))
        with file.open("rb") as opened:
            while part := opened.read(2**24):
                digest.update(part)
    return digest.hexdigest()


def _folders(step: Step) -> list[str]:
    """Folders of the data set whose images decide what comes out.

    A student's are checked one by one against its store. A store that is evaluated is not made from them again.
    """
    settings: Any = step.settings
    if step.stage == "pretrain":
        return [settings.split]
    if step.stage == "embed":
        return [source.folder for source in settings.split]
    if step.stage == "distill" or step.needs == ("embed",) or (Path(settings.model) / "zarr.json").is_file():
        return []
    return [settings.train_split, settings.test_split]


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Say the first thing that has changed; None if nothing has."""
    old, new = before.get("settings", {}), now["settings"]
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            return f"{key} was {old.get(key)!r}, is {new.get(key)!r}"
    inputs = before.get("inputs", {})
    for name, content in now["inputs"].items():
        if inputs.get(name) != content:
            return f"'{name}' has changed"
    if inputs.keys() != now["inputs"].keys():
        return "it is made from something else"
    return None if before.get("images") == now["images"] else "the images changed"


def _fingerprint(recipe: Recipe, folder: str) -> str:
    """Hash of the names, sizes and times of all files that a split's images come from, except the recipe's own."""
    digest = xxhash.xxh3_128()
    own = recipe.folder.resolve()
    inside = own.is_relative_to(recipe.data.resolve())
    for path in open_source(recipe.data, folder).files():
        if inside and path.resolve().is_relative_to(own):
            continue
        stat = path.stat()
        digest.update(os.fsencode(f"{path.relative_to(recipe.data)}\0{stat.st_size}\0{stat.st_mtime_ns}\0"))
    return digest.hexdigest()
