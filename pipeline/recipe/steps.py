"""The steps of a recipe, in order: the stage each runs, its settings, and the earlier steps it needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress_ssl.pipeline.common.errors import InputError, unknown_name
from compress_ssl.pipeline.distill.settings import options_for as objective_options
from compress_ssl.pipeline.evaluate.evaluations import EVALUATIONS
from compress_ssl.pipeline.pretrain.settings import options_for as method_options
from compress_ssl.pipeline.recipe.file import (
    PREVIOUS,
    RESERVED,
    STAGES,
    STORE,
    UNFINISHED,
    check_tables,
    validate_settings,
    where_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compress_ssl.pipeline.common.settings import StageSettings
    from compress_ssl.pipeline.recipe.file import Recipe

    Table = Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """One run of one stage."""

    stage: str
    name: str
    settings: StageSettings
    output: Path  # file or folder that the step writes, where later steps find it
    needs: tuple[str, ...] = ()  # names of the earlier steps whose output it uses


def plan_steps(recipe: Recipe) -> list[Step]:
    """Return the steps of a recipe, in order.

    Raises:
        InputError: If a table has an unknown or missing key, or a name is used twice.
    """
    check_tables(recipe)
    steps: dict[str, Step] = {}
    for table in recipe.pretrain:
        _add(steps, _pretraining(recipe, table))
    if recipe.embed is not None:
        _add(steps, _embedding(recipe, recipe.embed, steps))
    for table in recipe.student:
        _add(steps, _distillation(recipe, table))
    for reference in recipe.evaluate.models:
        for evaluation, table in recipe.evaluate.tables.items():
            _add(steps, _evaluation(recipe, evaluation, table, reference, steps))
    return list(steps.values())


def select_steps(steps: list[Step], *, first: str | None = None, only: tuple[str, ...] = ()) -> list[Step]:
    """Return the steps from ``first`` on, and of them those named in ``only``; both are names of steps or stages.

    Raises:
        InputError: If a name matches no step.
    """
    for name in (*only, *([first] if first else [])):
        if not any(name in (step.name, step.stage) for step in steps):
            raise unknown_name("step", name, {name for step in steps for name in (step.name, step.stage)})
    if first:
        start = next(i for i, step in enumerate(steps) if first in (step.name, step.stage))
        steps = steps[start:]
    kept = [step for step in steps if not only or step.name in only or step.stage in only]
    if not kept:
        raise InputError(f"No step is both in --only and from '{first}' on.")
    return kept


def _add(steps: dict[str, Step], step: Step) -> None:
    if step.name in steps:
        raise InputError(f"There are two steps named '{step.name}'; give each its own name.")
    if other := next((other for other in steps.values() if other.output == step.output), None):
        raise InputError(f"Steps '{other.name}' and '{step.name}' would both write '{step.output}'; rename one.")
    steps[step.name] = step


def _pretraining(recipe: Recipe, table: Table) -> Step:
    name = _name("pretrain", table)
    output = recipe.folder / name
    shared = method_options(recipe.settings, {**recipe.settings, **table}.get("method"))
    return Step("pretrain", name, _settings(recipe, "pretrain", shared, table, {"run": output}), output)


def _embedding(recipe: Recipe, table: Table, steps: Mapping[str, Step]) -> Step:
    store = recipe.folder / STORE
    teacher, needs = _network("teacher", table["teacher"], steps) if "teacher" in table else (None, ())
    made = {"store": store} | ({"teacher": teacher} if "teacher" in table else {})
    return Step("embed", "embed", _settings(recipe, "embed", recipe.settings, table, made), store, needs)


def _distillation(recipe: Recipe, table: Table) -> Step:
    name = _name("student", table)
    output, store = recipe.folder / name, recipe.folder / STORE
    given = {**({} if recipe.embed is None else {"store": store}), **recipe.distill, **table}
    if "store" not in given:
        raise InputError(f"Student '{name}' has no store; add an [embed] table, or store = PATH under [distill].")
    shared = objective_options(
        {**recipe.settings, **{key: given[key] for key in given if key not in table}},
        {**recipe.settings, **given}.get("objective"),
    )
    further = given.get("also_store")
    stores = (given["store"], *(further if isinstance(further, list | tuple) else ()))
    needs = ("embed",) if recipe.embed is not None and str(store) in map(str, stores) else ()
    return Step("distill", name, _settings(recipe, "distill", shared, table, {"run": output}), output, needs)


def _evaluation(recipe: Recipe, evaluation: str, table: Table, reference: str, steps: Mapping[str, Step]) -> Step:
    found = EVALUATIONS[evaluation]
    model, needs = _network("model", reference, steps)
    if needs == ("embed",) and found.needs_network:
        embed = steps["embed"]
        model, needs = embed.settings.model_dump()["teacher"], embed.needs
    folder = recipe.folder / "evaluation" / re.sub(r"[/:]", "-", reference)
    given = {**recipe.evaluate.shared, **table}
    made: dict[str, Any] = {"model": model, "output": folder}
    shared = recipe.settings
    if "embed" in steps and "embed" in recipe.evaluate.models and not found.needs_network:
        _check_selection(recipe, given, where_of("evaluate", evaluation))
        shared = {**shared, **_selection_of_store(recipe, reference)}
        if needs != ("embed",):
            folders = {split["name"]: split["folder"] for split in steps["embed"].settings.model_dump()["split"]}
            for key in ("train_split", "test_split"):
                name = {**recipe.settings, **given}.get(key, found.settings.model_fields[key].default)
                made[key] = folders.get(name, name)
    settings = _settings(recipe, "evaluate", shared, given, made, evaluation)
    return Step("evaluate", f"{evaluation} {reference}", settings, folder / found.file, needs)


def _selection_of_store(recipe: Recipe, reference: str) -> dict[str, Any]:
    """Return what selects the images of the recipe's store, on which networks are compared with its teacher.

    An untrained network, which has no image size of its own, gets that of the store too.
    """
    keys = ("limit", "subset", "labels", *(("size", "resize") if reference.startswith("random/") else ()))
    return {key: recipe.embed[key] for key in keys if recipe.embed and key in recipe.embed}


def _check_selection(recipe: Recipe, given: Table, where: str) -> None:
    """Check that an evaluation of the recipe's store selects no images of its own: a store is scored on all of its."""
    stored = {**recipe.settings, **(recipe.embed or {})}
    for key in ("limit", "subset"):
        if key in given and given[key] != stored.get(key):
            raise InputError(
                f"'{key}' in {where} is {given[key]!r}, but the teacher is scored on all images of the store; write it "
                "in [settings] or [embed], or take 'embed' out of the models."
            )


def _settings(
    recipe: Recipe, stage: str, shared: Table, table: Table, made: Table, evaluation: str | None = None
) -> StageSettings:
    """Return the settings of a step: what the recipe decides over its table, over what several steps share."""
    model = STAGES[stage] if evaluation is None else EVALUATIONS[evaluation].settings
    # An evaluation takes only fields that all have: "epochs" of [settings] is for trainings, not for a protocol.
    shared = {key: value for key, value in shared.items() if key in STAGES[stage].model_fields}
    if "index_folder" in STAGES[stage].model_fields:
        shared = {"index_folder": recipe.folder / "index", **shared}
    given = {key: value for key, value in table.items() if key != "name"}
    where = where_of(stage, evaluation or table.get("name"))
    return validate_settings(model, {**shared, "data": recipe.data, **given, **made}, where)


def _name(kind: str, table: Table) -> str:
    name = table.get("name")
    if not isinstance(name, str) or not name or "/" in name or name.startswith("."):
        raise InputError(f"Each [[{kind}]] of a recipe needs a name that can be a folder's; got {name!r}.")
    if name in RESERVED or name.endswith((PREVIOUS, UNFINISHED)):
        raise InputError(f"A [[{kind}]] cannot be named '{name}', which the recipe itself uses; rename it.")
    return name


def _network(what: str, reference: Any, steps: Mapping[str, Step]) -> tuple[Any, tuple[str, ...]]:
    """Return how a stage is given a network, and the names of the steps that make it."""
    if reference in steps:
        return str(steps[reference].output), (reference,)
    if not isinstance(reference, str) or {*"/:#"} & {*reference} or Path(reference).exists():
        return reference, ()
    raise unknown_name(
        what, reference, {*steps, "torchvision/NAME", "timm/NAME", "NAME:PATH", "random/NAME", "path/to/a/run"}
    )
