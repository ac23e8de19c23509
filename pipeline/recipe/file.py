"""Recipes: all stages in one TOML file, run in order, each only if its settings or inputs have changed.

    folder = "runs/mine"                 folder of all outputs
    data = "photographs"                 dataset with one sub-folder per split
    [settings]                           shared by all stages that have such a setting
    [[pretrain]]  name = "teacher" ...   a network trained from scratch; any number of them
    [embed]       teacher = "teacher"    the store; a teacher is a name in this recipe, or any that `embed` accepts
    [distill]                            shared by all students whose objectives have such a setting
    [[student]]   name = "small" ...     a student; any number of them
    [evaluate]    models = [...]         names in this recipe ("embed" is the store, or its teacher where an
                                         evaluation needs the network), or any that `evaluate` accepts
    [evaluate.linear] ...                an evaluation of each of them; any number, nearest neighbour (knn) if none

Keys are the fields of the stages' settings. ``steps.py`` turns a recipe into steps, ``run.py`` runs them.
``sweep/expand.py`` expands lists of values in a ``sweep`` table of [distill], [[student]] or [[pretrain]].
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from compress_ssl.pipeline.common.errors import InputError, unknown_name
from compress_ssl.pipeline.common.settings import Settings, StageSettings, explain
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.evaluate.evaluations import DEFAULT_EVALUATION, EVALUATIONS
from compress_ssl.pipeline.evaluate.settings import EvaluateSettings
from compress_ssl.pipeline.images.policies import MixingPolicy
from compress_ssl.pipeline.pretrain.settings import PretrainSettings
from compress_ssl.storage.typed_files import read_toml

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

SettingsT = TypeVar("SettingsT", bound=Settings)

RECIPES = Path(__file__).parent / "recipes"

STAGES: dict[str, type[StageSettings]] = {
    "pretrain": PretrainSettings,
    "embed": EmbedSettings,
    "distill": DistillSettings,
    "evaluate": EvaluateSettings,
}  # settings of each stage; an evaluation adds its own

SWEEP = "sweep"  # key of a table of lists, which ``sweep/expand.py`` replaces by one table per combination

PREVIOUS, UNFINISHED = ".previous", ".unfinished"  # suffixes of a replaced output: finished, and interrupted

DECIDED = {"data", "run", "output", "resume", "overwrite", "part", "add_views", "add_images"}
"""Settings that the recipe decides by its folder, its data and its records; no table may have them."""

STORE = "embeddings.zarr"  # name of the store in the recipe's folder

RESERVED = {*STAGES, STORE, "evaluation", "index", "steps", SWEEP}
"""Names that no step may have: they are used in the recipe's folder or on the command line."""


class Evaluations(Settings):
    """The table [evaluate]: models, settings shared by all evaluations, and one table per evaluation."""

    model_config = ConfigDict(extra="allow")

    models: tuple[str, ...] = ()

    @property
    def shared(self) -> dict[str, Any]:
        """Settings shared by all evaluations."""
        return {key: value for key, value in (self.model_extra or {}).items() if key not in EVALUATIONS}

    @property
    def tables(self) -> dict[str, dict[str, Any]]:
        """Settings of each requested evaluation, by its name."""
        extra = self.model_extra or {}
        return {name: extra[name] for name in EVALUATIONS if name in extra} or {DEFAULT_EVALUATION: {}}


class Recipe(Settings):
    """Content of a recipe file; see the module's docstring."""

    folder: Path
    data: Path
    settings: dict[str, Any] = Field(default_factory=dict)
    pretrain: tuple[dict[str, Any], ...] = ()
    embed: dict[str, Any] | None = None
    distill: dict[str, Any] = Field(default_factory=dict)
    student: tuple[dict[str, Any], ...] = ()
    evaluate: Evaluations = Evaluations()

    @property
    def has_sweep(self) -> bool:
        """True if a table has lists of values to try, which only ``sweep`` runs."""
        return any(SWEEP in table for table in (self.distill, *self.pretrain, *self.student))


def recipe_names() -> list[str]:
    """Return the names of the recipes in the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def read_recipe(source: str, **overrides: Any) -> Recipe:
    """Read a recipe from a file, or one of the package by its name.

    Args:
        source: Path of a TOML file, or a name from ``recipe_names``.
        overrides: Replacements for ``folder`` and ``data``; ``settings`` are merged into those of the recipe.

    Raises:
        InputError: If there is no such recipe, or a key is unknown.
        UnreadableFileError: If it is not TOML.
    """
    if source in recipe_names():
        path = RECIPES / f"{source}.toml"
    else:
        path = Path(source)
        if path.is_dir():
            raise InputError(f"The recipe '{source}' is a folder; give a TOML file.")
        if not path.is_file() and (path.suffix or "/" in source):
            raise InputError(f"The recipe '{source}' does not exist; check the path.")
        if not path.is_file():
            raise unknown_name("recipe", source, recipe_names())
    written = read_toml(path)
    given = {key: value for key, value in overrides.items() if value is not None and key != "settings"}
    _check_keys("the recipe", written, set(Recipe.model_fields))
    recipe = validate_settings(Recipe, {**written, **given}, f"the recipe '{path}'")
    return recipe.model_copy(update={"settings": {**recipe.settings, **overrides.get("settings", {})}})


def check_tables(recipe: Recipe) -> None:
    """Check the keys of all tables, including those that lead to no step."""
    if recipe.has_sweep:
        raise InputError("This recipe has lists of values to try; run it with 'compress-ssl sweep', which tries all.")
    models = (*STAGES.values(), *(evaluation.settings for evaluation in EVALUATIONS.values()))
    known = set().union(*(model.model_fields for model in models))
    _check_keys("[settings]", recipe.settings, known, DECIDED | {"store", "teacher", "model"})
    _check_keys("[embed]", recipe.embed or {}, EmbedSettings.model_fields, DECIDED | {"store"})
    _check_keys("[distill]", recipe.distill, DistillSettings.model_fields, DECIDED)
    known = {"models", *EvaluateSettings.model_fields, *EVALUATIONS}
    for key in recipe.evaluate.shared:
        owner = next((name for name, each in EVALUATIONS.items() if key in each.settings.model_fields), None)
        if owner and key not in known:
            raise InputError(f"'{key}' in [evaluate] belongs to one evaluation; write it below [evaluate.{owner}].")
    _check_keys("[evaluate]", recipe.evaluate.model_extra or {}, known, DECIDED | {"model"})
    for name, table in recipe.evaluate.tables.items():
        where = f"[evaluate.{name}]"
        if not isinstance(table, dict):
            raise InputError(f"'{name}' in [evaluate] must be a table; write {where}, and its settings below.")
        settings = EVALUATIONS[name].settings
        _check_keys(where, table, settings.model_fields.keys() - settings.UNUSED, (DECIDED - {"data"}) | {"model"})
    for stage, tables in (("pretrain", recipe.pretrain), ("distill", recipe.student)):
        for table in tables:
            known = {"name", *STAGES[stage].model_fields}
            _check_keys(where_of(stage, table.get("name")), table, known, DECIDED)


def where_of(stage: str, name: Any) -> str:
    """Return how an error message names the table of a step."""
    if stage == "embed":
        return "[embed]"
    if stage == "evaluate":
        return f"[evaluate.{name}]"
    return f"{'student' if stage == 'distill' else stage} '{name or '?'}'"


def _check_keys(where: str, given: Mapping[str, Any], known: Collection[str], decided: Collection[str] = ()) -> None:
    for key, value in given.items():
        if key in decided:
            raise InputError(f"'{key}' cannot be in {where}: the recipe itself decides it; remove the line.")
        if key not in known:
            raise unknown_name("key", key, set(known) - set(decided), f" in {where}")
        if key == "policy" and isinstance(value, dict):
            _check_keys(f"the policy of {where}", value, MixingPolicy.model_fields)


def validate_settings(model: type[SettingsT], values: Mapping[str, Any], where: str) -> SettingsT:
    try:
        return model(**values)
    except ValidationError as error:
        raise InputError(f"In {where}: {explain(error)}") from error
