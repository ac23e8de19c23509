"""Each setting has one role, and the role decides what is out of date and with what a run is resumed."""

import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.embed.importing.settings import ImportSettings
from compress_ssl.pipeline.embed.settings import EmbedSettings, Part, SplitSource
from compress_ssl.pipeline.embed.verify.settings import VerifySettings
from compress_ssl.pipeline.evaluate.evaluations import EVALUATIONS
from compress_ssl.pipeline.export.settings import ExportSettings
from compress_ssl.pipeline.images.pack_settings import PackSettings
from compress_ssl.pipeline.images.policies import POLICIES
from compress_ssl.pipeline.pretrain.settings import PretrainSettings
from compress_ssl.pipeline.recipe.file import Recipe
from compress_ssl.pipeline.recipe.steps import Step
from compress_ssl.pipeline.recipe.up_to_date import decide, result_file, write_record
from compress_ssl.pipeline.training.run_folder import open_runs
from tests.pipeline.recipe.tiny_recipe import RECIPE, STEPS, run

IN_RECIPES: dict[str, type[Settings]] = {
    "pretrain": PretrainSettings,
    "embed": EmbedSettings,
    "distill": DistillSettings,
    **{f"evaluate {name}": evaluation.settings for name, evaluation in EVALUATIONS.items()},
}
ALONE: list[type[Settings]] = [ExportSettings, ImportSettings, VerifySettings, PackSettings]
TRAININGS = {name: IN_RECIPES[name] for name in ("pretrain", "distill")}

OTHER: dict[str, Any] = {
    "split": (SplitSource(name="other", folder="other"),),
    "part": Part(number=1, of=2),
    "layers": ("conv3",),
    "scheduler": "tcp://machine:8786",
    "head": "mlp",
}
"""Other values than the default, where they do not follow from the type."""


def copied(path: Path) -> Path:
    """Return a copy of a file or folder; of nothing, another path."""
    copy = path.with_name(f"moved-{path.name}")
    if path.exists():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, copy)
    return copy


def other_value(name: str, annotation: Any, value: Any) -> Any:
    """Return another value of a field; for a path, another one with the same content."""
    if isinstance(value, Path):
        return copied(value)
    if isinstance(value, tuple) and value and isinstance(value[0], Path):
        return tuple(map(copied, value))
    if name == "teacher_head":
        return tuple(str(copied(Path(each))) for each in value)
    if name == "policy":
        return next(policy for policy in POLICIES.values() if policy != value)
    if name in OTHER and not isinstance(value, str):
        return OTHER[name]
    if get_origin(annotation) is Literal:
        return next(choice for choice in get_args(annotation) if choice != value)
    if isinstance(value, bool) or annotation == bool | None:
        return not value
    if isinstance(value, float):
        return value / 2 or 0.5
    if isinstance(value, str):
        return f"other-{value}"
    if isinstance(value, tuple):
        return (*value, (value[-1] if value else 0) + 1)
    return (value or 8) + 1


def base_settings(model: type[Settings], folder: Path) -> Settings:
    """Return settings with a value for every path, most of which exist."""
    folder.mkdir(exist_ok=True)
    inputs = {name: folder / name for name in ("data", "store", "further", "subset", "labels", "projection")}
    for name, path in inputs.items():
        if name in {"data", "store", "further"}:
            path.mkdir(exist_ok=True)
            (path / "zarr.json").write_text("{}")
        else:
            path.write_text("a b\n")
    paths = {
        **inputs,
        **{name: folder / name for name in ("run", "out", "output", "index_folder", "scratch")},
        "also_store": (inputs["further"],),
    }
    given: dict[str, Any] = {name: path for name, path in paths.items() if name in model.model_fields}
    if "teacher_head" in model.model_fields:
        given |= {"objective": "retro", "teacher_head": (str(inputs["projection"]), str(inputs["projection"]))}
    for name, field in model.model_fields.items():
        if field.is_required() and name not in given:
            given[name] = "random/conv4-16"
    return model(**given)


def changed(model: type[Settings], folder: Path) -> Iterator[tuple[str, Settings]]:
    """Yield every field with the settings that differ in it alone."""
    base = base_settings(model, folder)
    for name, field in model.model_fields.items():
        if name != "image_list":  # its record names the files by their paths
            other = other_value(name, field.annotation, getattr(base, name))
            assert other != getattr(base, name), name
            yield name, base.model_copy(update={name: other})


@pytest.mark.parametrize("model", [*IN_RECIPES.values(), *ALONE], ids=lambda model: model.__name__)
def test_every_field_has_one_role(model: type[Settings]) -> None:
    roles = [model.fields_with_role(role) for role in ("result", "path", "runtime")]
    assert sorted(name for names in roles for name in names) == sorted(model.model_fields)


@pytest.mark.parametrize("stage", IN_RECIPES)
def test_step_is_out_of_date_exactly_if_a_result_field_has_changed(stage: str, tmp_path: Path) -> None:
    model, images = IN_RECIPES[stage], defaultdict(lambda: "the same images")
    recipe = Recipe(folder=tmp_path / "recipe", data=tmp_path / "data")
    output = tmp_path / "output" / ("result.json" if stage.startswith("evaluate") else "")

    def decision(settings: Settings) -> tuple[str, str]:
        step = Step(stage.split()[0], "step", settings, output)  # type: ignore[arg-type]
        made = decide(step, {"step": step}, recipe, images, force=False)
        if made.why == "not run before":
            write_record(recipe, "step", made.record, finished=True)
            result_file(step).parent.mkdir(parents=True, exist_ok=True)
            result_file(step).touch()
        return made.action, made.why

    folder = tmp_path / "inputs"
    assert decision(base_settings(model, folder)) == ("run", "not run before")
    for name, settings in changed(model, folder):
        action, why = decision(settings)
        if name in model.fields_with_role("result"):
            assert (action, why.split(" was ")[0]) == ("run", name)
        else:
            assert (action, why) == ("skip", "up to date"), name


@pytest.mark.parametrize("stage", TRAININGS)
def test_run_is_resumed_exactly_if_no_result_field_has_changed(stage: str, tmp_path: Path) -> None:
    model = TRAININGS[stage]
    open_runs([(base_settings(model, tmp_path / "first"), tmp_path / "run", {})])  # type: ignore[list-item]
    for name, settings in changed(model, tmp_path / "inputs"):
        resumed = [(settings.model_copy(update={"resume": True, "overwrite": False}), tmp_path / "run", {})]
        if name in model.fields_with_role("result"):
            with pytest.raises(InputError, match=f"' was started with {name}"):
                open_runs(resumed)  # type: ignore[arg-type]
        else:
            open_runs(resumed)  # type: ignore[arg-type]


def test_checks_and_logs_put_no_step_out_of_date(work: Path) -> None:
    text = RECIPE.replace("bank_size = 16", 'bank_size = 16\ncheck_content = "all"\nkeep_every = 1\ntensorboard = true')
    text = text.replace("views = 2", "views = 2\npixel_hashes = 1000")
    assert run(work, text, dry_run=True) == dict.fromkeys(STEPS, ("skip", "up to date"))
