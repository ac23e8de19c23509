"""Decide whether a step is up to date: compare its settings and inputs with the record of its last run.

Records are stored beside the outputs (``folder/steps/NAME.json``). Each holds the settings of the step, a hash of the
stores and networks it used, and of the names, sizes and times of the images it read. A step is up to date while they
are the same and its output exists. Paths do not count: a folder may be moved.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import xxhash
from pydantic import ConfigDict
from typing_extensions import TypedDict

from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.common.settings import ImageSelection
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.evaluate.settings import VocSettings
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.images.sources.voc import ANNOTATIONS
from compress_ssl.pipeline.networks.reference import file_and_part, parse_reference
from compress_ssl.pipeline.recipe.file import Recipe
from compress_ssl.pipeline.recipe.steps import Step
from compress_ssl.storage.places.durable import write_json_durably
from compress_ssl.storage.places.place import PlaceLike, location
from compress_ssl.storage.publish import has_zarr_metadata, is_meant_as_store
from compress_ssl.storage.reader import open_store
from compress_ssl.storage.tools.identity import content_hash
from compress_ssl.storage.typed_files import read_json

FORMER_DEFAULTS = {("pretrain", "precision"): "float32", ("distill", "precision"): "float32"}
"""Defaults that have changed, by stage and setting: what was made by them is up to date."""


class _Record(TypedDict, total=False):
    """What ``read_record`` returns; other keys are kept."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    settings: dict[str, Any]
    inputs: dict[str, str | None]
    images: dict[str, str]
    finished: bool
    failed: str  # why it failed, one sentence
    seconds: float
    together: int  # number of networks trained in the same pass


class ImageFolder(NamedTuple):
    """A split of a dataset."""

    data: Path
    name: str


@dataclass(frozen=True)
class Decision:
    """Action for a step, and the reason."""

    step: Step
    action: str  # ``skip``, ``resume`` or ``run``
    why: str
    record: dict[str, Any]  # current settings and inputs of the step


def decide(
    step: Step, steps: Mapping[str, Step], recipe: Recipe, images: Mapping[ImageFolder, str], *, force: bool
) -> Decision:
    """Compare the settings and inputs of a step with the record of its last run.

    Args:
        steps: All steps of the recipe, by name.
        images: As returned by ``image_fingerprints``.
        force: Run it again even if it is up to date.
    """
    # Of an earlier step's output, these are only the path.
    places = {"teacher", "model"} if step.needs else set()
    apart = step.settings.fields_with_role("path", "runtime") | places
    record = {
        "settings": step.settings.result_record(*places),
        "inputs": _inputs(step, steps),
        "images": {folder.name: images[folder] for folder in image_folders(step)},
    }
    before = read_record(recipe, step.name)
    if before is None:
        return Decision(step, "run", "not run before", record)
    chosen = step.settings.model_dump(mode="json", exclude=apart, exclude_defaults=True)
    before["settings"] = {
        key: value
        for key, value in before.get("settings", {}).items()
        if key not in apart and (key in chosen or value != FORMER_DEFAULTS.get((step.stage, key), ...))
    }
    if change := _difference(before, record, chosen):
        return Decision(step, "run", change, record)
    if force:
        return Decision(step, "run", "forced", record)
    if not before.get("finished"):
        return Decision(step, "resume", "failed" if "failed" in before else "was interrupted", record)
    if not result_file(step).is_file():
        return Decision(step, "run", "its output is gone", record)
    return Decision(step, "skip", "up to date", record)


def image_fingerprints(recipe: Recipe, steps: Iterable[Step]) -> dict[ImageFolder, str]:
    """Hash names, sizes and times of the files in every folder that a step reads, except those the recipe wrote."""
    own = recipe.folder.resolve()
    found: dict[ImageFolder, str] = {}
    for folder in dict.fromkeys(folder for step in steps for folder in image_folders(step)):
        digest = xxhash.xxh3_128()
        inside = own.is_relative_to(folder.data.resolve())
        annotations = sorted((folder.data / ANNOTATIONS).glob("*.xml")) if folder.name == ANNOTATIONS else None
        for path in annotations or open_source(*folder).files():
            if inside and path.resolve().is_relative_to(own):
                continue
            stat = path.stat()
            digest.update(os.fsencode(f"{path.relative_to(folder.data)}\0{stat.st_size}\0{stat.st_mtime_ns}\0"))
        found[folder] = digest.hexdigest()
    return found


def _record_path(recipe: Recipe, name: str) -> Path:
    return recipe.folder / "steps" / f"{re.sub('[/:]', '-', name)}.json"


def read_record(recipe: Recipe, name: str) -> dict[str, Any] | None:
    """Return the settings and inputs of a step's last run; None if it was never run.

    Raises:
        UnreadableFileError: If the record is damaged.
    """
    otherwise = "restore it, or delete it and move the step's output away"
    try:
        return dict(read_json(_record_path(recipe, name), _Record, otherwise=otherwise))
    except FileNotFoundError:
        return None


def write_record(recipe: Recipe, name: str, record: Mapping[str, Any], *, finished: bool) -> None:
    """Record the settings and inputs of a step."""
    write_json_durably(_record_path(recipe, name), {**record, "finished": finished})


def is_finished(recipe: Recipe, step: Step) -> bool:
    """Return True if a step has finished and its output exists."""
    return bool((read_record(recipe, step.name) or {}).get("finished")) and result_file(step).is_file()


def inputs_unchanged(step: Step, steps: Mapping[str, Step], recipe: Recipe) -> bool:
    """Return True if a step's last run used the current stores and networks."""
    return (read_record(recipe, step.name) or {}).get("inputs") == _inputs(step, steps)


def result_file(step: Step) -> Path:
    """Return the file whose existence shows that a step has written its output."""
    if step.stage == "embed":
        return step.output / "zarr.json"
    return step.output if step.stage == "evaluate" else step.output / MODEL_FILE


def _inputs(step: Step, steps: Mapping[str, Step]) -> dict[str, str | None]:
    """Hash a step's inputs besides images: outputs of earlier steps, and stores and networks given by path."""
    used: dict[str, PlaceLike] = {name: steps[name].output for name in step.needs}
    if not step.needs:
        for key in ("teacher", "model"):
            text = str(getattr(step.settings, key, ""))
            if not location(text).is_local:
                used[key] = text
            elif (path := parse_reference(text).path) not in (None, Path(), step.output) and path.exists():
                used[key] = path
    if isinstance(step.settings, DistillSettings):
        first, *further = step.settings.stores
        given = {"store": first, **{f"also_store {number}": place for number, place in enumerate(further, 1)}}
        used |= {name: place for name, place in given.items() if place not in used.values()}
        for number, reference in enumerate(step.settings.teacher_head, 1):
            file, part = file_and_part(reference)
            used[f"teacher_head {number}{f'#{part}' if part else ''}"] = file
    if isinstance(step.settings, ImageSelection):
        lists = {"subset": step.settings.subset, "labels": step.settings.labels}
        used |= {name: file for name, file in lists.items() if file is not None}
        used |= {str(file): file for file in getattr(step.settings, "image_list", ())}
    return {name: _content(path) for name, path in used.items()}


def _content(place: PlaceLike) -> str | None:
    """Hash a network's file, or a store's metadata and commit records, which hold the hash of every part."""
    if not location(place).is_local:
        return content_hash(open_store(place))
    path = Path(str(place))
    if has_zarr_metadata(path):
        records = ("zarr.json", "*/zarr.json", "*/embeddings/commits/*.json", "*/embeddings/commits/*/*.json")
        files = sorted(file for pattern in records for file in path.glob(pattern))
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


def image_folders(step: Step) -> list[ImageFolder]:
    """Return the dataset folders whose images a step's output depends on.

    None for a student, whose images are compared with its store, nor for the evaluation of a store.
    """
    settings: Any = step.settings
    match step.stage:
        case "pretrain":
            names = [settings.split]
        case "embed":
            names = [source.folder for source in settings.split]
        case "evaluate" if step.needs != ("embed",) and not is_meant_as_store(settings.model):
            names = [settings.train_split, settings.test_split]
            names += [ANNOTATIONS] if isinstance(settings, VocSettings) else []
        case _:
            names = []
    return [ImageFolder(settings.data, name) for name in names]


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], chosen: Mapping[str, Any]) -> str | None:
    """Describe the first change since the last run; None if there is none.

    A setting that is newer than the record has not changed if it has its default; ``chosen`` are those that do not.
    Nor has a folder of annotations, which earlier releases did not record.
    """
    old, new = before.get("settings", {}), now["settings"]
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key) and (key in old or key in chosen):
            return f"{key} was {old.get(key)!r}, is {new.get(key)!r}"
    inputs = before.get("inputs", {})
    for name, content in now["inputs"].items():
        if inputs.get(name) != content:
            return f"'{name}' has changed"
    if inputs.keys() != now["inputs"].keys():
        return "it is made from something else"
    images = before.get("images", {})
    same = images and all(now["images"].get(name, content) == content for name, content in images.items())
    return None if same or images == now["images"] else "the images changed"
