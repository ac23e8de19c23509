"""The stage: run one evaluation of a network or a store, and write the result beside the model.

A result is one JSON file: network, dataset, settings, the ``scores`` shown in tables, and the complete result.
"""

import pkgutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from compress_ssl.pipeline.common.errors import InputError, RunError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.torch_errors import explain_out_of_memory
from compress_ssl.pipeline.evaluate.evaluations import EVALUATIONS
from compress_ssl.pipeline.evaluate.feature_source import FeatureSource
from compress_ssl.pipeline.evaluate.settings import EvaluateSettings
from compress_ssl.pipeline.networks.network import load_network
from compress_ssl.pipeline.networks.user_networks import is_users
from compress_ssl.pipeline.training.distributed import is_rank0, process_group, world_size
from compress_ssl.storage.errors import StoreError
from compress_ssl.storage.places.durable import write_json_durably


class Evaluated(NamedTuple):
    """The result of an evaluation, and its file."""

    result: Any  # of the type that the evaluation's own module defines
    path: Path


def evaluate(settings: EvaluateSettings, progress: Progress) -> Evaluated:
    """Run one evaluation; the type of the settings selects it.

    Raises:
        InputError: If the model, the dataset or a setting cannot be used.
        StoreError: If a store is incomplete or damaged.
        RunError: If a training fails, or memory is full.
    """
    with process_group():
        return _evaluate(FeatureSource(settings, progress), settings, progress)


def evaluate_with_baselines(
    settings: EvaluateSettings, baselines: Sequence[str], progress: Progress
) -> Iterator[Evaluated]:
    """Evaluate the model, then each baseline of its architecture on the same images, at the same sizes.

    Baselines are ``random`` (untrained) and ``torchvision`` (supervised weights, if available).

    Raises:
        InputError: As ``evaluate``; before anything is computed, if a baseline has no images or no weights.
    """
    with process_group():
        source = FeatureSource(settings, progress)
        models = {}
        for baseline in baselines:
            if settings.patch_mean:
                raise InputError(
                    f"--patch-mean averages the patches of a store, and --baseline {baseline} is a network; leave one "
                    "of them out."
                )
            if settings.data is None:
                raise InputError(
                    f"--baseline {baseline} needs the images, which a store does not have; give the dataset with "
                    "--data."
                )
            architecture = source.description["architecture"]
            if is_users(architecture):
                raise InputError(
                    f"--baseline {baseline} is a network of the same architecture, and '{architecture}' is a function; "
                    "leave it out."
                )
            models[baseline] = f"{baseline}/{architecture}"
            load_network(models[baseline])  # missing weights are an error now, not after the model has been scored
        yield _evaluate(source, settings, progress)
        size, resize = source.sizes
        same = {"size": size, "resize": resize, "squash": source.squash, "pool": source.description.get("pool", "own")}
        for baseline, model in models.items():
            place = {"output": source.folder / f"baseline-{baseline}", "index_folder": source.index_folder}
            changed = {"model": model, **same, **place, **source.select_same_images()}
            yield evaluate(settings.model_copy(update=changed), progress)


@process_group()
def evaluate_all(common: dict[str, Any], progress: Progress) -> tuple[list[Path], dict[str, str]]:
    """Run every evaluation that the model and the dataset allow, with the given fields of ``EvaluateSettings``.

    Returns:
        results (list of Path).
        left_out: Name of every other evaluation, failed ones included, to the reason, a sentence.

    Raises:
        InputError: If none can be run, with the reason of the first.
    """
    results, reasons = [], {}
    for name, evaluation in EVALUATIONS.items():
        try:
            results.append(evaluate(evaluation.settings(**common), progress).path)
        except (InputError, StoreError, RunError) as error:
            reasons[name] = str(error)
    if not results:
        raise InputError(next(iter(reasons.values())))
    return results, reasons


def _evaluate(source: FeatureSource, settings: EvaluateSettings, progress: Progress) -> Evaluated:
    name, evaluation = next(each for each in EVALUATIONS.items() if type(settings) is each[1].settings)
    if world_size() > 1 and getattr(settings, "features", None) != "live":
        raise InputError(
            f"evaluate {name} runs in one process; start it without torchrun, which is for 'evaluate linear --features "
            "live'."
        )
    start = time.monotonic()
    with explain_out_of_memory(
        f"The memory was full in evaluate {name} of '{settings.model}'; lower the batch sizes, or end other programs."
    ):
        result = pkgutil.resolve_name(f"{__package__}.{evaluation.function}")(settings, source, progress)
    record = {
        "evaluation": name,
        "network": source.description,
        "data_set": source.data_set,
        "train_split": settings.train_split,
        "test_split": settings.test_split,
        "settings": settings.result_record("model"),
        "seconds": round(time.monotonic() - start, 1),
        "scores": result.scores(),
        "result": result.model_dump(mode="json"),
    }
    path = source.folder / evaluation.file
    if is_rank0():
        write_json_durably(path, record)
    return Evaluated(result, path)
