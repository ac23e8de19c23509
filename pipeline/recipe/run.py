"""Run the steps of a recipe that are out of date or were interrupted; ``up_to_date.py`` decides about each."""

import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compress_ssl.pipeline.common.errors import InputError, RunError, SomeTrainingsFailed
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.run_files import SETTINGS_FILE
from compress_ssl.pipeline.distill.settings import SHARED_IN_ONE_PASS
from compress_ssl.pipeline.evaluate.results_table import read_result
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.networks.architectures import check_architecture
from compress_ssl.pipeline.networks.network import check_reference
from compress_ssl.pipeline.recipe.file import PREVIOUS, UNFINISHED, Recipe
from compress_ssl.pipeline.recipe.steps import Step, plan_steps
from compress_ssl.pipeline.recipe.up_to_date import (
    Decision,
    ImageFolder,
    decide,
    image_fingerprints,
    image_folders,
    inputs_unchanged,
    is_finished,
    read_record,
    result_file,
    write_record,
)
from compress_ssl.storage.errors import StoreError, UnreadableFileError
from compress_ssl.storage.publish import is_meant_as_store, is_store


@dataclass(frozen=True)
class Plan:
    """Selected steps, and the expected action for each."""

    recipe: Recipe
    steps: tuple[Step, ...]  # selected steps; the other steps of the recipe are not run
    force: bool
    images: Mapping[ImageFolder, str]
    """Fingerprints of the images when the plan was made; the next run notices later changes."""
    decisions: tuple[Decision, ...]
    """One per step. A step that needs one that will run is expected to run; it is skipped if that output stays."""


def plan_run(recipe: Recipe, steps: Sequence[Step], *, force: bool = False) -> Plan:
    """Decide which steps are out of date, and check early whatever would end a late step. Writes nothing.

    Args:
        steps (sequence of Step): The selected ones.
        force: Run all of them again.

    Raises:
        InputError: If the data, a name or the output of a needed step does not exist, or an output's place is taken.
    """
    all_steps = {step.name: step for step in plan_steps(recipe)}
    _check_before_the_first_step(steps, recipe)
    images = image_fingerprints(recipe, steps)
    decisions: list[Decision] = []
    made: set[str] = set()
    for step in steps:
        for name in step.needs:
            if name not in made and not is_finished(recipe, all_steps[name]):
                raise InputError(f"Step '{step.name}' needs '{name}', which is not finished; run that one first.")
        decision = decide(step, all_steps, recipe, images, force=force)
        changing = next((name for name in step.needs if name in made), None)
        if decision.action != "run" and changing:
            decision = replace(decision, action="run", why=f"'{changing}' will be run")
        decisions.append(decision)
        if decision.action != "skip":
            made.add(step.name)
    return Plan(recipe, tuple(steps), force, images, tuple(decisions))


def without_unmet(recipe: Recipe, steps: Sequence[Step]) -> tuple[list[Step], list[Step]]:
    """Split steps into those that can run, and those that need a step which is neither selected nor finished."""
    all_steps = {step.name: step for step in plan_steps(recipe)}
    able: dict[str, Step] = {}
    for step in steps:
        if all(name in able or is_finished(recipe, all_steps[name]) for name in step.needs):
            able[step.name] = step
    return list(able.values()), [step for step in steps if step.name not in able]


def run_recipe(
    plan: Plan,
    progress: Progress,
    announce: Callable[[Decision], None],
    *,
    together: int | None = None,
    failed: Callable[[Step, str], None] | None = None,
) -> None:
    """Run the steps that are out of date.

    An output that is replaced is first moved to ``NAME.previous``, or ``NAME.unfinished`` if it was interrupted.

    Args:
        announce: Called with every decision before it is carried out.
        together: Most students to train in one pass over the images; no limit unless given.
        failed: Called with a step that fails and the reason; the failure is recorded, and steps that do not need its
            output still run. Unless given, the first failure is raised.

    Raises:
        InputError, StoreError, RunError: As the stages.
    """
    all_steps = {step.name: step for step in plan_steps(plan.recipe)}
    lost: set[str] = set()
    for group in passes(plan.steps, together):
        able = [step for step in group if lost.isdisjoint(step.needs)]
        lost.update(step.name for step in group if step not in able)
        decisions = [decide(step, all_steps, plan.recipe, plan.images, force=plan.force) for step in able]
        for decision in decisions:
            announce(decision)
        todo = [decision for decision in decisions if decision.action != "skip"]
        if not todo:
            continue
        if failed is None:
            _run_together(todo, plan.recipe, progress)
            continue
        for decision, reason in _run_collecting_failures(todo, plan.recipe, progress):
            write_record(plan.recipe, decision.step.name, {**decision.record, "failed": reason}, finished=False)
            lost.add(decision.step.name)
            failed(decision.step, reason)


def passes(steps: Sequence[Step], most: int | None = None) -> list[list[Step]]:
    """Group the steps that run in one call, in order.

    Consecutive students that agree on ``SHARED_IN_ONE_PASS``, and so see the same batches, are trained together, at
    most ``most`` of them; every other step runs alone.
    """
    groups: list[list[Step]] = []
    students: dict[tuple[Any, ...], list[Step]] = {}
    for step in steps:
        if step.stage != "distill":
            students = {}
            groups.append([step])
            continue
        stream = tuple(getattr(step.settings, field) for field in SHARED_IN_ONE_PASS)
        if stream not in students or len(students[stream]) == most:
            students[stream] = []
            groups.append(students[stream])
        students[stream].append(step)
    return groups


def evaluation_results(recipe: Recipe) -> tuple[list[Path], list[str]]:
    """Return the result files of a recipe's finished evaluations, in order, and the names of those out of date.

    An evaluation is out of date, and left out of the files, if the network or store that it scored has changed since.
    """
    steps = {step.name: step for step in plan_steps(recipe)}
    finished = [step for step in steps.values() if step.stage == "evaluate" and is_finished(recipe, step)]
    current = [step for step in finished if inputs_unchanged(step, steps, recipe)]
    return [result_file(step) for step in current], [step.name for step in finished if step not in current]


def _run_together(decisions: Sequence[Decision], recipe: Recipe, progress: Progress) -> None:
    """Run steps of one stage; trainings that finish are recorded even if others fail."""
    for decision in decisions:
        _make_room(decision, recipe)
    for decision in decisions:
        write_record(recipe, decision.step.name, decision.record, finished=False)
    began, failure = time.monotonic(), None
    try:
        _run_stage(decisions, progress)
    except SomeTrainingsFailed as error:
        failure = error
    took = {"seconds": round(time.monotonic() - began, 1), "together": len(decisions)}
    for decision in decisions:
        if failure is None or decision.step.output not in failure.reasons:
            write_record(recipe, decision.step.name, decision.record | took, finished=True)
    if failure:
        raise failure


def _run_collecting_failures(
    decisions: Sequence[Decision], recipe: Recipe, progress: Progress
) -> list[tuple[Decision, str]]:
    """Run steps of one stage, one by one if they cannot start together; return those that fail, with the reason."""
    try:
        _run_together(decisions, recipe, progress)
    except SomeTrainingsFailed as error:
        return [(each, error.reasons[each.step.output]) for each in decisions if each.step.output in error.reasons]
    except (InputError, StoreError, RunError) as error:
        if len(decisions) == 1:
            return [(decisions[0], str(error))]
        return [failure for each in decisions for failure in _run_collecting_failures([each], recipe, progress)]
    return []


def _make_room(decision: Decision, recipe: Recipe) -> None:
    """Move the previous output of a step aside, in place of an earlier one.

    Raises:
        InputError: If something else has that name.
    """
    output, before = decision.step.output, read_record(recipe, decision.step.name)
    if decision.action != "run" or not output.exists():
        return
    aside = output.with_name(output.name + (PREVIOUS if before is None or before.get("finished") else UNFINISHED))
    if aside.exists() and not _is_output(aside):
        raise InputError(f"'{aside}', where '{output.name}' is to be kept, is something else; move it away.")
    if aside.is_dir():
        shutil.rmtree(aside)
    output.rename(aside)


def _is_output(path: Path) -> bool:
    """Return whether this is a store, a run, or a result."""
    if path.is_dir():
        return is_store(path) or (path / SETTINGS_FILE).is_file()
    try:
        read_result(path)
    except UnreadableFileError:
        return False
    return True


def _run_stage(decisions: Sequence[Decision], progress: Progress) -> None:
    """Run several students together, or one step of any other stage."""
    from compress_ssl.pipeline.distill.run import distill_together
    from compress_ssl.pipeline.embed.run import embed
    from compress_ssl.pipeline.evaluate.run import evaluate
    from compress_ssl.pipeline.pretrain.run import pretrain
    from compress_ssl.pipeline.recipe.live_evaluation import live_evaluation

    settings: list[Any] = []
    for decision in decisions:
        given = decision.step.settings
        resume = decision.action == "resume" and "resume" in type(given).model_fields
        settings.append(given.model_copy(update={"resume": resume}))
    match decisions[0].step.stage:
        case "distill":
            distill_together(settings, progress, live_evaluation)
        case "pretrain":
            pretrain(settings[0], progress, live_evaluation)
        case "embed":
            embed(settings[0], progress)
        case "evaluate":
            evaluate(settings[0], progress)


def _check_before_the_first_step(steps: Iterable[Step], recipe: Recipe) -> None:
    for step in steps:
        for key in ("student", "arch", "teacher", "model"):
            name = getattr(step.settings, key, None)
            if name and not (key == "model" and is_meant_as_store(name)):
                (check_architecture if key in ("student", "arch") else check_reference)(name)
        for folder in image_folders(step):
            open_source(*folder)
        if step.output.exists() and step.stage != "evaluate" and read_record(recipe, step.name) is None:
            raise InputError(
                f"'{step.output}' exists, but was not made by this recipe; move it away, or give another folder."
            )
