"""Scoring a network while it trains: by a function that is handed in, since trainings know no evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.training.distributed import is_rank0

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.training.settings import TrainingSettings

    ScoreFunction = Callable[[Any], Mapping[str, float]]
    """Scores a network, by metric."""
    LiveEvaluation = Callable[[Any, Any, Progress], ScoreFunction]
    """Makes a ``Score`` from a training's settings and renderer (``recipe.live_evaluation``)."""


def make_score_function(
    settings: TrainingSettings, renderer: Any, progress: Progress, live: LiveEvaluation | None
) -> ScoreFunction | None:
    """The live evaluation of a training that asks for one; of several processes the main one does it.

    Raises
    ------
    InputError
        If it asks and none was handed in; or as the evaluation.
    """
    if settings.live_every is None or not is_rank0():
        return None
    if live is None:
        raise InputError(
            "live_every is set, but no live evaluation was handed in; compress_ssl.pipeline.recipe.live_evaluation has one."
        )
    return live(settings, renderer, progress)
