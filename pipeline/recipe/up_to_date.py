"""Whether a step is up to date: what it is made from now, compared with the record of its last run.

The records lie beside the outputs (``folder/steps/NAME.json``). Each holds the step's settings, the content of the
stores and networks it used, the names, sizes and times of the images it read. A step is up to date while they are
the same and its output is there. Where things lie does not count: a folder may be moved.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import xxhash

from compress_ssl.pipeline.common.settings import ImageSelection
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.networks.reference import parse_reference
from compress_ssl.storage.places.durable import write_json_durably
from compress_ssl.storage.places.place import PlaceLike, location
from compress_ssl.storage.reader import open_store
from compress_ssl.storage.recognise import has_zarr_metadata, is_meant_as_store
from compress_ssl.storage.tools.identity import content_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from compress_ssl.pipeline.recipe.file import Recipe
    from compress_ssl.pipeline.recipe.steps import Step


class ImageFolder(NamedTuple):
    """A split of a data set."""

    data: Path
    name: str


@dataclass(frozen=True)
class Decision:
    """What is to be done about a step, and why."""

    step: Step
    action: str
    """``skip``, ``resume`` or ``run``."""
    why: str
    record: dict[str, Any]
    """What the step is made from now."""


def decide(
    step: Step, steps: Mapping[str, Step], recipe: Recipe, images: Mapping[ImageFolder, str], *, force: bool
) -> Decision:
    """Compare what a step is made from with the record of its last run.

    Parameters
    ----------
    steps : mapping
        All steps of the recipe, by name.
    images : mapping
        What ``image_fingerprints`` found.
    force : bool
        Run it again even if it is up to date.
    """
    apart = step.settings.fields_with_role("path", "runtime") | _places(step)
    record = {
        "settings": step.settings.result_record(*_places(step)),
        "inputs": _inputs(step, steps),
        "images": {folder.name: images[folder] for folder in image_folders(step)},
    }
    before = read_record(recipe, step.name)
    if before is None:
        return Decision(step, "run", "not run before", record)
    chosen = step.settings.model_dump(mode="json", exclude=apart, exclude_defaults=True)
    before["settings"] = {key: value for key, value in before.get("settings", {}).items() if key not in apart}
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
    """Hash the names, sizes and times of the images in every folder that a step reads."""
    folders = dict.fromkeys(folder for step in steps for folder in image_folders(step))
    return {folder: _fingerprint(recipe, folder) for folder in folders}


def _record_path(recipe: Recipe, name: str) -> Path:
    return recipe.folder / "steps" / f"{re.sub('[/:]', '-', name)}.json"


def read_record(recipe: Recipe, name: str) -> dict[str, Any] | None:
    """What a step was last made from; None if it was never run."""
    try:
        record: dict[str, Any] = json.loads(_record_path(recipe, name).read_bytes())
    except (OSError, ValueError):
        return None
    return record


def write_record(recipe: Recipe, name: str, record: Mapping[str, Any], *, finished: bool) -> None:
    """Keep what a step is made from."""
    write_json_durably(_record_path(recipe, name), {**record, "finished": finished})


def is_finished(recipe: Recipe, step: Step) -> bool:
    """Whether a step's output is there and whole."""
    return bool((read_record(recipe, step.name) or {}).get("finished")) and result_file(step).is_file()


def used_what_is_there(step: Step, steps: Mapping[str, Step], recipe: Recipe) -> bool:
    """Whether a step's last run used the stores and networks that are there now."""
    return (read_record(recipe, step.name) or {}).get("inputs") == _inputs(step, steps)


def result_file(step: Step) -> Path:
    """The file that a finished step leaves."""
    if step.stage == "embed":
        return step.output / "zarr.json"
    if step.stage == "evaluate":
        return step.output
    from compress_ssl.pipeline.common.run_files import MODEL_FILE

    return step.output / MODEL_FILE


def _places(step: Step) -> set[str]:
    """Settings that only say where the output of an earlier step lies."""
    return {"teacher", "model"} if step.needs else set()


def _inputs(step: Step, steps: Mapping[str, Step]) -> dict[str, str | None]:
    """Content of what the step uses besides images: outputs of other steps, stores and networks given by a path."""
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
    if isinstance(step.settings, ImageSelection):
        lists = {"subset": step.settings.subset, "labels": step.settings.labels}
        used |= {name: file for name, file in lists.items() if file is not None}
        used |= {str(file): file for file in getattr(step.settings, "image_list", ())}
    return {name: _content(path) for name, path in used.items()}


def _content(place: PlaceLike) -> str | None:
    """Hash of a network's file, or of a store's metadata and commit records (they hold the hash of every part)."""
    from compress_ssl.pipeline.common.run_files import MODEL_FILE

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
    """Folders of data sets whose images decide what comes out.

    A student's are checked one by one against its store. A store that is evaluated is not made from them again.
    """
    settings: Any = step.settings
    match step.stage:
        case "pretrain":
            names = [settings.split]
        case "embed":
            names = [source.folder for source in settings.split]
        case "evaluate" if step.needs != ("embed",) and not is_meant_as_store(settings.model):
            names = [settings.train_split, settings.test_split]
        case _:
            names = []
    return [ImageFolder(settings.data, name) for name in names]


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], chosen: Mapping[str, Any]) -> str | None:
    """Say the first thing that has changed; None if nothing has.

    A setting that there was not yet when the record was written is no change at its default: ``chosen`` are the others.
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
    return None if before.get("images") == now["images"] else "the images changed"


def _fingerprint(recipe: Recipe, folder: ImageFolder) -> str:
    """Hash of the names, sizes and times of all files that a split's images come from, except the recipe's own."""
    digest = xxhash.xxh3_128()
    own = recipe.folder.resolve()
    inside = own.is_relative_to(folder.data.resolve())
    for path in open_source(*folder).files():
        if inside and path.resolve().is_relative_to(own):
            continue
        stat = path.stat()
        digest.update(os.fsencode(f"{path.relative_to(folder.data)}\0{stat.st_size}\0{stat.st_mtime_ns}\0"))
    return digest.hexdigest()
