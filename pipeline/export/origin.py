"""The origin of a network: what its run recorded, and the scores of these very weights."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.run_files import BEST_FOLDER, EPOCH_FOLDER, MODEL_FILE, SETTINGS_FILE
from compress_ssl.pipeline.common.settings import ImageSelection
from compress_ssl.pipeline.training.settings import TrainingSettings

NOT_SHOWN = {
    *TrainingSettings.fields_with_role("path", "runtime"),
    *ImageSelection.fields_with_role("path", "runtime"),
    *("data", "run", "store", "also_store", "scratch", "teacher_memory", "check_content"),
    *("inputs", "versions", "compile", "on_bad_image"),
}  # keys of ``settings.json`` that are not options of the method: paths, runtime options, inputs and versions


class Origin(NamedTuple):
    """The origin of a network; empty for a published file."""

    settings: dict[str, Any]  # of the method, without those that are off
    teachers: list[dict[str, Any]]
    data_set: dict[str, Any]
    views: list[dict[str, Any]]
    versions: dict[str, str]
    scores: list[tuple[str, ...]]
    """Network, evaluation, dataset, splits, score and percent; of the network, then of its teachers."""


def read_origin(reference: str, weights_sha256: str) -> Origin:
    """Read the record of a run and the results of its network.

    Args:
        reference: As ``load_network`` takes it; only a run has a record.
        weights_sha256: Results of other weights are left out.

    Raises:
        InputError: If a record or a result cannot be read.
    """
    path = Path(reference)
    folder = path.parent if path.name == MODEL_FILE else path
    is_earlier = folder.name == BEST_FOLDER or folder.name.startswith(EPOCH_FOLDER.partition("{")[0])
    run = folder.parent if is_earlier else folder
    record = _read(run / SETTINGS_FILE) if (run / SETTINGS_FILE).is_file() else {}
    inputs = record.get("inputs", {})
    teachers = [each["teacher"] for each in (inputs, *inputs.get("further_teachers", [])) if "teacher" in each]
    settings = {
        name: value
        for name, value in record.items()
        if name not in NOT_SHOWN and value is not None and value is not False and value != []
    }
    stores = [store for store in (record.get("store"), *record.get("also_store", [])) if store is not None]
    found: list[tuple[str, tuple[str, ...]]] = []
    for path in _result_files(folder, run, stores) if folder.is_dir() else ():
        result = _read(path)
        if "evaluation" not in result or "scores" not in result:
            continue
        try:
            network, of = result["network"], result["data_set"]["name"]
            splits = " → ".join(result[key] for key in ("train_split", "test_split") if result.get(key))
            for title, percent in result["scores"].items():
                row = (network["name"], result["evaluation"], of, splits, title, f"{float(percent):.1f}")
                found.append((network["weights_sha256"], row))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"'{path}' is not a result of evaluate ({error!r}); evaluate again.") from error
    owners = dict.fromkeys((weights_sha256, *(teacher.get("weights_sha256") for teacher in teachers)))
    scores = [row for owner in owners for sha256, row in found if sha256 == owner]
    data_set = inputs.get("data_set", {key: inputs[key] for key in ("fingerprint",) if key in inputs})
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


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' cannot be read ({error}); restore it, or move it away.") from error
    return record if isinstance(record, dict) else {}
