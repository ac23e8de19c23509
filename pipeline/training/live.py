"""Live evaluation: score a network while it trains, by a function that the caller hands in.

The training loop knows no evaluation; ``recipe.live_evaluation`` has the one that the commands use.
"""

from collections.abc import Callable, Mapping
from typing import Any

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.training.distributed import is_rank0
from compress_ssl.pipeline.training.settings import TrainingSettings

ScoreFunction = Callable[[Any], Mapping[str, float]]  # returns a network's scores by metric
LiveEvaluation = Callable[[Any, Any, Progress], ScoreFunction]
"""Returns the ``ScoreFunction`` for a training's settings and renderer."""


def make_score_function(
    settings: TrainingSettings, renderer: Any, progress: Progress, live: LiveEvaluation | None
) -> ScoreFunction | None:
    """Return the score function that the settings ask for; None without live evaluation and on ranks other than 0.

    Raises:
        InputError: If live evaluation is asked for and ``live`` is None, or as ``live`` raises.
    """
    if settings.live_every is None or not is_rank0():
        return None
    if live is None:
        raise InputError(
            "live_every is set, but no live evaluation was passed; pass "
            "compress_ssl.pipeline.recipe.live_evaluation.live_evaluation."
        )
    return live(settings, renderer, progress)
