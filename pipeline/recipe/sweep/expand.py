"""Expand a recipe with lists of values into one with a table for each combination.

    [distill.sweep]                                    # every student
    seed = [0, 1, 2]
    [[student]]
    name = "2q"
    sweep = { temperature = [0.02, 0.04] }             # and for this one; 2q,temperature=0.02,seed=0 and so on

Lists are for the fields of a student or of a network trained without a teacher. A value or list in a student's own
table overrides a shared list; a shared list is ignored for students whose objective has no such option.
"""

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import xxhash

from compress_ssl.pipeline.common.errors import InputError, unknown_name
from compress_ssl.pipeline.distill.settings import options_for
from compress_ssl.pipeline.recipe.file import DECIDED, STAGES, SWEEP, Recipe, where_of

SEED = "seed"
LONGEST, LONGEST_NAME = 40, 180
"""Most characters of a value in a cell's name, beyond which a hash replaces it, and of the whole name."""


class Cell(NamedTuple):
    """One combination of the values of a table."""

    name: str  # name of the step and of its folder
    table: str  # name of the table in the recipe
    values: dict[str, Any]  # value of each swept field; empty for a table without a sweep


def expand(recipe: Recipe) -> tuple[Recipe, list[Cell]]:
    """Replace each table with lists by one table per combination.

    Args:
        recipe: With its lists.

    Returns:
        recipe (Recipe): Without lists, for ``plan_steps``. The name of a swept table in ``evaluate.models`` is replaced
            by its cells.
        cells (list of Cell): In the order of the tables; a table without a sweep is one cell.

    Raises:
        InputError: If a list is empty, its field is unknown or has a value too, or a recipe can have only one value of
            it.
    """
    _check_swept_once(recipe)
    fixed, shared = _parted("[distill]", "distill", recipe.distill)
    pretrain = [_cells("pretrain", table, {}, {}) for table in recipe.pretrain]
    student = [_cells("distill", table, fixed, shared) for table in recipe.student]
    cells = [cell for group in (*pretrain, *student) for cell, _ in group]
    of_table: dict[str, list[str]] = {}
    for cell in cells:
        of_table.setdefault(cell.table, []).append(cell.name)
    models = tuple(name for model in recipe.evaluate.models for name in of_table.get(model, [model]))
    expanded = recipe.model_copy(
        update={
            "pretrain": tuple(table for group in pretrain for _, table in group),
            "student": tuple(table for group in student for _, table in group),
            "distill": fixed,
            "evaluate": recipe.evaluate.model_copy(update={"models": models}),
        }
    )
    return expanded, cells


def _check_swept_once(recipe: Recipe) -> None:
    for where, table in (("settings", recipe.settings), ("embed", recipe.embed or {})):
        if SWEEP in table:
            raise InputError(
                f"[{where}.{SWEEP}] cannot be: a recipe has one store. Lists go below [distill.{SWEEP}], or into a "
                '[[student]] or [[pretrain]]; stores are compared by store = ["A", "B"] there.'
            )
    teacher = (recipe.embed or {}).get("teacher")
    if any(SWEEP in table and table.get("name") == teacher for table in recipe.pretrain):
        raise InputError(
            f"The teacher '{teacher}' cannot be swept: a recipe has one store. Make a store of each teacher, and "
            f'compare them by store = ["A", "B"] below [distill.{SWEEP}].'
        )


def _cells(
    stage: str, table: Mapping[str, Any], defaults: Mapping[str, Any], shared: Mapping[str, list[Any]]
) -> list[tuple[Cell, dict[str, Any]]]:
    """Return the cells of one table, each with its table in the expanded recipe."""
    name = str(table.get("name", "?"))
    fixed, own = _parted(where_of(stage, name), stage, table)
    found: dict[str, tuple[Cell, dict[str, Any]]] = {}
    lists = {**{key: values for key, values in shared.items() if key not in fixed}, **own}
    keys = sorted(
        lists, key=lambda key: key == SEED
    )  # it varies fastest: cells that differ in it alone are consecutive
    for combination in itertools.product(*(lists[key] for key in keys)):
        values = dict(zip(keys, combination, strict=True))
        if stage == "distill":
            concerning = own.keys() | options_for(values, {**defaults, **fixed, **values}.get("objective")).keys()
            values = {key: value for key, value in values.items() if key in concerning}
        text = ",".join((name, *(f"{key}={_text(value)}" for key, value in values.items())))
        if len(text) > LONGEST_NAME:
            raise InputError(f"'{text}' is too long for a folder's name; sweep over fewer fields, or shorten '{name}'.")
        kept, _ = found.setdefault(text, (Cell(text, name, values), {**fixed, **values, "name": text}))
        if kept.values != values:
            raise InputError(f"Two combinations of '{name}' would both be called '{text}'; give values that differ.")
    return list(found.values())


def _parted(where: str, stage: str, table: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return the values and the lists of a table, checked."""
    fixed = {key: value for key, value in table.items() if key != SWEEP}
    lists = table.get(SWEEP, {})
    if not isinstance(lists, dict):
        raise InputError(f"{SWEEP} of {where} must be a table of lists, as in {SWEEP} = {{ seed = [0, 1] }}.")
    for key, values in lists.items():
        if key in DECIDED:
            raise InputError(f"'{key}' cannot be swept by {where}: the recipe itself decides it; remove the line.")
        if key not in STAGES[stage].model_fields:
            raise unknown_name("key", key, set(STAGES[stage].model_fields) - DECIDED, f" that {where} could sweep")
        if key in fixed:
            raise InputError(f"'{key}' of {where} has a value and a list of values; remove one of them.")
        if not isinstance(values, list) or not values:
            raise InputError(f"'{key}' in the sweep of {where} must be a list of values to try, got {values!r}.")
        texts = [_text(value) for value in values]
        if twice := next((text for text in texts if texts.count(text) > 1), None):
            raise InputError(f"'{key}' in the sweep of {where} has {twice} twice; remove one of them.")
    return fixed, lists


def _text(value: Any) -> str:
    """Return a value as part of a folder's name."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, dict | list) or len(text) > LONGEST:
        return xxhash.xxh3_64_hexdigest(json.dumps(value, sort_keys=True, default=str).encode())[:8]
    return re.sub(r"[^\w.+-]", "-", text)
