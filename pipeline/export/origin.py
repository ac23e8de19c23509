"""The origin of a network: what its run recorded, and the scores of these very weights."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NotRequired

from pydantic import ConfigDict, FiniteFloat
from typing_extensions import TypedDict

from compress_ssl.pipeline.common.run_files import BEST_FOLDER, EPOCH_FOLDER, MODEL_FILE, SETTINGS_FILE
from compress_ssl.pipeline.common.settings import ImageSelection
from compress_ssl.pipeline.training.settings import TrainingSettings
from compress_ssl.storage.typed_files import read_json
from compress_ssl.storage.typed_json import check_value

NOT_SHOWN = {
    *TrainingSettings.fields_with_role("path", "runtime"),
    *ImageSelection.fields_with_role("path", "runtime"),
    *("data", "run", "store", "also_store", "teacher_head", "scratch", "teacher_memory", "check_content"),
    *("inputs", "versions", "compile", "on_bad_image"),
}  # keys of ``settings.json`` that are not options of the method: paths, runtime options, inputs and versions


class _Teacher(TypedDict, total=False):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    name: str
    architecture: str
    weights_sha256: str


class _View(TypedDict):
    size: int
    policy: dict[str, Any]


class _Inputs(TypedDict, total=False):
    teacher: _Teacher
    further_teachers: list["_Inputs"]
    data_set: dict[str, Any]
    fingerprint: Any
    views: list[_View]


class _Record(TypedDict, total=False):
    """``settings.json`` of a run, as far as a card needs it."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    inputs: _Inputs
    versions: dict[str, str]
    store: str | None
    also_store: list[str]


class _DataSet(TypedDict):
    name: str


class _Network(TypedDict):
    name: str
    weights_sha256: str


class _Result(TypedDict):
    """The result of an evaluation, as far as a card needs it."""

    evaluation: str
    network: _Network
    data_set: _DataSet
    train_split: NotRequired[str | None]
    test_split: NotRequired[str | None]
    scores: dict[str, FiniteFloat]


MOVE = "restore it, or move it away"


class Origin(NamedTuple):
    """The origin of a network; empty for a published file."""

    settings: dict[str, Any]  # of the method, without those that are off
    teachers: list[_Teacher]
    data_set: dict[str, Any]
    views: list[_View]
    versions: dict[str, str]
    scores: list[tuple[str, ...]]
    """Network, evaluation, dataset, splits, score and percent; of the network, then of its teachers."""


def read_origin(reference: str, weights_sha256: str) -> Origin:
    """Read the record of a run and the results of its network.

    Args:
        reference: As ``load_network`` takes it; only a run has a record.
        weights_sha256: Results of other weights are left out.

    Raises:
        UnreadableFileError: If a record or a result is damaged.
    """
    path = Path(reference)
    folder = path.parent if path.name == MODEL_FILE else path
    is_earlier = folder.name == BEST_FOLDER or folder.name.startswith(EPOCH_FOLDER.partition("{")[0])
    run = folder.parent if is_earlier else folder
    record = read_json(run / SETTINGS_FILE, _Record, otherwise=MOVE) if (run / SETTINGS_FILE).is_file() else _Record()
    inputs = record.get("inputs", _Inputs())
    teachers = [each["teacher"] for each in (inputs, *inputs.get("further_teachers", [])) if "teacher" in each]
    settings = {
        name: value
        for name, value in record.items()
        if name not in NOT_SHOWN and value is not None and value is not False and value != []
    }
    stores = [store for store in (record.get("store"), *record.get("also_store", [])) if store is not None]
    found: list[tuple[str, tuple[str, ...]]] = []
    for path in _result_files(folder, run, stores) if folder.is_dir() else ():
        content = read_json(path, Any, otherwise=MOVE)
        if not isinstance(content, dict) or not content.keys() >= {"evaluation", "scores"}:
            continue
        result = check_value(path, content, _Result, otherwise="evaluate again")
        network, of = result["network"], result["data_set"]["name"]
        splits = " → ".join(filter(None, (result.get("train_split"), result.get("test_split"))))
        for title, percent in result["scores"].items():
            row = (network["name"], result["evaluation"], of, splits, title, f"{percent:.1f}")
            found.append((network["weights_sha256"], row))
    owners = dict.fromkeys((weights_sha256, *(teacher.get("weights_sha256") for teacher in teachers)))
    scores = [row for owner in owners for sha256, row in found if sha256 == owner]
    data_set = inputs.get("data_set", {"fingerprint": inputs["fingerprint"]} if "fingerprint" in inputs else {})
    return Origin(settings, teachers, data_set, inputs.get("views", []), record.get("versions", {}), scores)


def _result_files(folder: Path, run: Path, stores: Sequence[str]) -> Iterator[Path]:
    """Yield the JSON files beside the network, in its recipe's folder of results, and beside the teachers' stores.

    Those of further datasets are in a folder of each.
    """
    yield from (*sorted(folder.glob("*.json")), *sorted(folder.glob("*/*.json")))
    for path in sorted((run.parent / "evaluation").glob("*/*.json")):
        if path.parent.suffix not in (".previous", ".unfinished"):  # replaced by a recipe, or interrupted in it
            yield path
    for store in dict.fromkeys(stores):
        results = Path(f"{store}.evaluation")
        yield from (*sorted(results.glob("*.json")), *sorted(results.glob("*/*.json")))
