"""The stage: run one evaluation of a network or a store, write the result beside the model.

A result is one JSON file: what was evaluated on what, with which settings, the ``scores`` that a table shows, and all
that the evaluation found.
"""

from __future__ import annotations

import importlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from compress_ssl.pipeline.common.errors import InputError, RunError
from compress_ssl.pipeline.evaluate.evaluations import EVALUATIONS, evaluation_of
from compress_ssl.pipeline.evaluate.feature_source import FeatureSource
from compress_ssl.pipeline.networks.network import load_network
from compress_ssl.pipeline.training.distributed import is_rank0, world_size
from compress_ssl.pipeline.training.process_group import process_group
from compress_ssl.storage.errors import StoreError
from compress_ssl.storage.places.durable import write_json_durably

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.evaluate.settings import EvaluateSettings


class Evaluated(NamedTuple):
    """What an evaluation found, and where it is written."""

    result: Any
    """As the evaluation's own file defines it."""
    path: Path


def evaluate(settings: EvaluateSettings, progress: Progress) -> Evaluated:
    """Run the evaluation that these are the settings of.

    Raises
    ------
    InputError
        If the model, the data or a setting cannot be used.
    StoreError
        If a store is not complete or damaged.
    RunError
        If a training fails.
    """
    with process_group():
        return _evaluate(FeatureSource(settings, progress), settings, progress)


def evaluate_with_baselines(
    settings: EvaluateSettings, baselines: Sequence[str], progress: Progress
) -> Iterator[Evaluated]:
    """Run an evaluation of the model, then of its architecture as each baseline, at the same image sizes.

    Parameters
    ----------
    baselines : sequence of str
        ``random`` (untrained), ``torchvision`` (supervised weights, where they can be had).

    Raises
    ------
    InputError
        As ``evaluate``; before anything is computed if a baseline has no images or no weights.
    """
    with process_group():
        subject = FeatureSource(settings, progress)
        models = {baseline: _baseline(baseline, subject, settings) for baseline in baselines}
        yield _evaluate(subject, settings, progress)
        size, resize = subject.sizes
        for baseline, model in models.items():
            place = {"output": subject.folder / f"baseline-{baseline}", "index_folder": subject.index_folder}
            changed = {"model": model, "size": size, "resize": resize, **place}
            yield evaluate(settings.model_copy(update=changed), progress)


def _baseline(kind: str, subject: FeatureSource, settings: EvaluateSettings) -> str:
    """The network to compare with."""
    if settings.data is None:
        raise InputError(f"--baseline {kind} needs the images, which a store has not; give the data set by --data.")
    reference = f"{kind}/{subject.description['architecture']}"
    load_network(reference)  # weights that cannot be had are missed now, not when the model has been scored
    return reference


@process_group()
def evaluate_all(common: dict[str, Any], progress: Progress) -> tuple[list[Path], dict[str, str]]:
    """Run every evaluation that the model and the data allow, each with its defaults.

    Parameters
    ----------
    common : dict
        Fields of ``EvaluateSettings``.

    Returns
    -------
    results : list of Path
    left_out : dict
        Of the other evaluations, and of those that failed: name to the reason, a sentence.

    Raises
    ------
    InputError
        If none can be run; the first one's reason.
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


def _evaluate(subject: FeatureSource, settings: EvaluateSettings, progress: Progress) -> Evaluated:
    name = evaluation_of(settings)
    if world_size() > 1 and getattr(settings, "features", None) != "live":
        raise InputError(
            f"evaluate {name} is the work of one process; start it without torchrun, which is for 'evaluate linear --features "
            "live'."
        )
    module, _, function = EVALUATIONS[name].function.partition(":")
    start = time.monotonic()
    result = getattr(importlib.import_module(module), function)(settings, subject, progress)
    record = {
        "evaluation": name,
        "network": subject.description,
        "data_set": subject.data_set,
        "train_split": settings.train_split,
        "test_split": settings.test_split,
        "settings": settings.result_record("model"),
        "seconds": round(time.monotonic() - start, 1),
        "scores": result.scores(),
        "result": result.model_dump(mode="json"),
    }
    path = subject.folder / EVALUATIONS[name].file
    if is_rank0():
        write_json_durably(path, record)
    return Evaluated(result, path)
