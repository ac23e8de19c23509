"""The steps of a recipe, in order: which stage each runs, with what settings, and which earlier ones it needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress_ssl.pipeline.common.errors import InputError, unknown_name
from compress_ssl.pipeline.distill.settings import options_for
from compress_ssl.pipeline.evaluate.evaluations import EVALUATIONS
from compress_ssl.pipeline.pretrain.settings import options_for as method_options
from compress_ssl.pipeline.recipe.file import PREVIOUS, RESERVED, STAGES, UNFINISHED, check_tables, validated, where_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compress_ssl.pipeline.common.settings import StageSettings
    from compress_ssl.pipeline.recipe.file import Recipe


@dataclass(frozen=True)
class Step:
    """One run of one stage."""

    stage: str
    name: str
    settings: StageSettings
    output: Path
    """What the step makes; a later step finds it here."""
    needs: tuple[str, ...] = ()
    """Names of the earlier steps that it uses."""


def plan_steps(recipe: Recipe) -> list[Step]:
    """Turn a recipe into its steps, in order.

    Raises
    ------
    InputError
        If a table has an unknown or missing key, or a name is used twice.
    """
    check_tables(recipe)
    steps: dict[str, Step] = {}

    def add(
        stage: str,
        name: str,
        output: Path,
        given: Mapping[str, Any],
        made: Mapping[str, Any],
        needs: tuple[str, ...],
        evaluation: str | None = None,
    ) -> None:
        if name in steps:
            raise InputError(f"There are two steps named '{name}'; give each its own name.")
        if other := next((step for step in steps.values() if step.output == output), None):
            raise InputError(f"Steps '{other.name}' and '{name}' would both write '{output}'; rename one of them.")
        model = STAGES[stage] if evaluation is None else EVALUATIONS[evaluation].settings
        shared = {"index_folder": recipe.folder / "index", **recipe.settings}
        # Of an evaluation only what all have: "epochs" is of trainings, not of a protocol.
        shared = {key: value for key, value in shared.items() if key in STAGES[stage].model_fields}
        if stage == "distill":
            shared = options_for(shared, {**shared, **given}.get("objective"))
        elif stage == "pretrain":
            shared = method_options(shared, {**shared, **given}.get("method"))
        values = {**shared, "data": recipe.data, **given, **made}
        settings = validated(model, values, where_of(stage, evaluation or name))
        steps[name] = Step(stage, name, settings, output, needs)

    for table in recipe.pretrain:
        name, given = _named("pretrain", table)
        run = recipe.folder / name
        add("pretrain", name, run, given, {"run": run}, ())

    store = recipe.folder / "embeddings.zarr"
    teacher: dict[str, Any] = {}
    if recipe.embed is not None:
        needs: tuple[str, ...] = ()
        if "teacher" in recipe.embed:
            teacher["teacher"], needs = _network("teacher", recipe.embed["teacher"], steps)
        add("embed", "embed", store, recipe.embed, {"store": store, **teacher}, needs)

    for table in recipe.student:
        name, given = _named("student", table)
        run = recipe.folder / name
        shared = options_for(recipe.distill, {**recipe.distill, **given}.get("objective"))
        given = {**({"store": store} if "embed" in steps else {}), **shared, **given}
        if "store" not in given:
            raise InputError(f"Student '{name}' has no store; add an [embed] table, or store = PATH under [distill].")
        further = given.get("also_store")
        stores = (given["store"], *(further if isinstance(further, list | tuple) else ()))
        embedded = "embed" in steps and str(store) in map(str, stores)
        add("distill", name, run, given, {"run": run}, ("embed",) if embedded else ())

    for reference in recipe.evaluate.models:
        folder = recipe.folder / "evaluation" / re.sub(r"[/:]", "-", reference)
        for evaluation, table in recipe.evaluate.tables.items():
            model, needs = _network("model", reference, steps)
            if needs == ("embed",) and EVALUATIONS[evaluation].needs_network:
                model, needs = teacher["teacher"], steps["embed"].needs
            result = folder / EVALUATIONS[evaluation].file
            given = {**recipe.evaluate.shared, **table}
            made = {"model": model, "output": folder}
            add("evaluate", f"{evaluation} {reference}", result, given, made, needs, evaluation)
    return list(steps.values())


def select_steps(steps: list[Step], *, first: str | None = None, only: tuple[str, ...] = ()) -> list[Step]:
    """Keep the steps from ``first`` on, and of them those named in ``only``; both take a step or a stage.

    Raises
    ------
    InputError
        If a name fits no step.
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


def _named(kind: str, table: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    given = dict(table)
    name = given.pop("name", None)
    if not isinstance(name, str) or not name or "/" in name or name.startswith("."):
        raise InputError(f"Each [[{kind}]] of a recipe needs a name that can be a folder's; got {name!r}.")
    if name in RESERVED or name.endswith((PREVIOUS, UNFINISHED)):
        raise InputError(f"A [[{kind}]] cannot be named '{name}', which the recipe itself uses; rename it.")
    return name, given


def _network(what: str, reference: Any, steps: Mapping[str, Step]) -> tuple[Any, tuple[str, ...]]:
    """What a stage is to be told of a network, and the steps that make it."""
    if reference in steps:
        return str(steps[reference].output), (reference,)
    if not isinstance(reference, str) or "/" in reference or ":" in reference or Path(reference).exists():
        return reference, ()
    raise unknown_name(
        what, reference, {*steps, "torchvision/NAME", "timm/NAME", "NAME:PATH", "random/NAME", "path/to/a/run"}
    )
