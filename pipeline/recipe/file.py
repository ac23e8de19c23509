"""A recipe: all stages in one TOML file, run in order, each only if its settings or inputs have changed.

    folder = "runs/mine"                 where everything is written
    data = "photographs"                 data set with a sub-folder a split
    [settings]                           what all stages share that have such a setting
    [[pretrain]]  name = "teacher" ...   a network trained without labels; any number of them
    [embed]       teacher = "teacher"    the store; a teacher is a name in this recipe, or what `embed` takes
    [distill]                            what all students share, whose objectives have such a setting
    [[student]]   name = "small" ...     a student; any number of them
    [evaluate]    models = [...]         names in this recipe ("embed" is the store, or its teacher where an
                                         evaluation needs the network), or what `evaluate` takes
    [evaluate.linear] ...                an evaluation of each of them; any number, nearest neighbour (knn) if none

Lists of values to try, in a ``sweep`` table of [distill], [[student]] or [[pretrain]], are ``sweep/expand.py``'s.

Keys are the fields of the stages' settings. ``runner.py`` runs the steps that come out of it.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from compress_ssl.pipeline.common.errors import InputError, unknown_name
from compress_ssl.pipeline.common.settings import Settings, StageSettings, explain
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.evaluate.evaluations import DEFAULT_EVALUATION, EVALUATIONS
from compress_ssl.pipeline.evaluate.settings import EvaluateSettings
from compress_ssl.pipeline.images.policies import Policy
from compress_ssl.pipeline.pretrain.settings import PretrainSettings

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

SettingsT = TypeVar("SettingsT", bound=Settings)

RECIPES = Path(__file__).parent / "recipes"

STAGES: dict[str, type[StageSettings]] = {
    "pretrain": PretrainSettings,
    "embed": EmbedSettings,
    "distill": DistillSettings,
    "evaluate": EvaluateSettings,
}
"""What a stage can be told; an evaluation has settings of its own besides."""


SWEEP = "sweep"
"""Key of a table with lists of values, which ``sweep/expand.py`` replaces by a table for each combination."""

PREVIOUS, UNFINISHED = ".previous", ".unfinished"
"""What an output that is made anew is called from then on."""

DECIDED = {"data", "run", "output", "resume", "overwrite", "part", "add_views", "add_images"}
"""Settings that follow from the recipe's folder, its data and what was done before; no table may have them. Its store is
made whole."""

RESERVED = {*STAGES, "embeddings.zarr", "evaluation", "index", "steps", SWEEP}
"""Names in a recipe's folder, and on the command line, that no step may have."""


class Evaluations(Settings):
    """The table [evaluate]: what to evaluate, the settings of all evaluations, and a table for each of them."""

    model_config = ConfigDict(extra="allow")

    models: tuple[str, ...] = ()

    @property
    def shared(self) -> dict[str, Any]:
        """Settings of all evaluations."""
        return {key: value for key, value in (self.model_extra or {}).items() if key not in EVALUATIONS}

    @property
    def tables(self) -> dict[str, dict[str, Any]]:
        """The evaluations asked for, each with its own settings."""
        extra = self.model_extra or {}
        return {name: extra[name] for name in EVALUATIONS if name in extra} or {DEFAULT_EVALUATION: {}}


class Recipe(Settings):
    """A recipe as it is written; see the module's docstring."""

    folder: Path
    data: Path
    settings: dict[str, Any] = Field(default_factory=dict)
    pretrain: tuple[dict[str, Any], ...] = ()
    embed: dict[str, Any] | None = None
    distill: dict[str, Any] = Field(default_factory=dict)
    student: tuple[dict[str, Any], ...] = ()
    evaluate: Evaluations = Evaluations()


def recipe_names() -> list[str]:
    """Recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def read_recipe(source: str, **overrides: Any) -> Recipe:
    """Read a recipe from a file, or one that comes with the package by its name.

    Parameters
    ----------
    source : str
        Path of a TOML file, or a name from ``recipe_names``.
    overrides
        Values of ``folder`` and ``data`` to take instead; ``settings`` are merged into the recipe's.

    Raises
    ------
    InputError
        If there is no such recipe, or it is not TOML, or has a key that is not known.
    """
    path = _find(source)
    try:
        written = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"The recipe '{path}' is not valid TOML: {error}.") from error
    given = {key: value for key, value in overrides.items() if value is not None and key != "settings"}
    _check_keys("the recipe", written, set(Recipe.model_fields))
    recipe = validated(Recipe, {**written, **given}, f"the recipe '{path}'")
    return recipe.model_copy(update={"settings": {**recipe.settings, **overrides.get("settings", {})}})


def _find(source: str) -> Path:
    """The file of a recipe: of one that comes with the package, or the path itself."""
    if source in recipe_names():
        return RECIPES / f"{source}.toml"
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        raise InputError(f"The recipe '{source}' is a folder; give a TOML file.")
    if path.suffix or "/" in source:
        raise InputError(f"The recipe '{source}' does not exist; check the path.")
    raise unknown_name("recipe", source, recipe_names())


def check_tables(recipe: Recipe) -> None:
    """Check the keys of all tables, also of those that no step comes from."""
    if any(SWEEP in table for table in (recipe.distill, *recipe.pretrain, *recipe.student)):
        raise InputError(
            "This recipe has lists of values to try; run it with 'compress-ssl sweep', which tries them all."
        )
    evaluations = (evaluation.settings for evaluation in EVALUATIONS.values())
    known = set().union(*(settings.model_fields for settings in (*STAGES.values(), *evaluations)))
    _check_keys("[settings]", recipe.settings, known, DECIDED | {"store", "teacher", "model"})
    _check_keys("[embed]", recipe.embed or {}, EmbedSettings.model_fields, DECIDED | {"store"})
    _check_keys("[distill]", recipe.distill, DistillSettings.model_fields, DECIDED)
    known = {"models", *EvaluateSettings.model_fields, *EVALUATIONS}
    for key in recipe.evaluate.shared:
        owner = next((name for name, each in EVALUATIONS.items() if key in each.settings.model_fields), None)
        if owner and key not in known:
            raise InputError(
                f"'{key}' in [evaluate] is a setting of one evaluation; write it below [evaluate.{owner}]."
            )
    _check_keys("[evaluate]", recipe.evaluate.model_extra or {}, known, DECIDED | {"model"})
    for name, table in recipe.evaluate.tables.items():
        where = f"[evaluate.{name}]"
        if not isinstance(table, dict):
            raise InputError(f"'{name}' in [evaluate] must be a table; write {where}, and its settings below.")
        _check_keys(where, table, _offered(EVALUATIONS[name].settings), (DECIDED - {"data"}) | {"model"})
    for stage, tables in (("pretrain", recipe.pretrain), ("distill", recipe.student)):
        for table in tables:
            known = {"name", *STAGES[stage].model_fields}
            _check_keys(where_of(stage, table.get("name")), table, known, DECIDED)


def _offered(settings: type[EvaluateSettings]) -> set[str]:
    return settings.model_fields.keys() - settings.UNUSED


def where_of(stage: str, name: Any) -> str:
    """What a sentence calls the table that a step comes from."""
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
            _check_keys(f"the policy of {where}", value, Policy.model_fields)


def validated(model: type[SettingsT], values: Mapping[str, Any], where: str) -> SettingsT:
    try:
        return model(**values)
    except ValidationError as error:
        raise InputError(f"In {where}: {explain(error)}") from error
