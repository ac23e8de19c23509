"""Learning rate, order of images, optimiser and randomness: functions of settings and step, with no state to save."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from compress_ssl.pipeline.common.rng import philox
from compress_ssl.pipeline.training.distributed import rank

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt
    from torch import nn

    from compress_ssl.pipeline.training.settings import TrainingSettings


def learning_rate(settings: TrainingSettings, epoch: int, step: int, steps: int) -> float:
    """Rate of one step.

    ``step``: the rate times gamma for every milestone reached. ``cosine``: half a cosine from the rate to zero
    over the whole training (Loshchilov & Hutter 2017, without restarts), changed at every step. Either is multiplied
    by a line from zero to one over the first ``warmup_epochs`` (Goyal et al. 2017, section 2.2).

    Parameters
    ----------
    epoch, step : int
        Counted from 0.
    steps : int
        Steps of an epoch.
    """
    if settings.schedule == "step":
        rate = settings.learning_rate * settings.gamma ** sum(epoch >= milestone for milestone in settings.milestones)
    else:
        done = (epoch + step / steps) / settings.epochs
        rate = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    warmup_steps = settings.warmup_epochs * steps
    return rate * min(1.0, (epoch * steps + step + 1) / warmup_steps) if warmup_steps else rate


def make_optimizer(settings: TrainingSettings, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Build the optimiser the settings ask for."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(trainable, settings.learning_rate, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        trainable, settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay
    )


def epoch_order(rows: npt.NDArray[np.integer], seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The rows in this epoch's random order; the same for the same seed and epoch, whatever went before."""
    generator = philox(seed, epoch)
    return generator.permutation(rows).astype(np.int64)


def seed_step(seed: int, epoch: int, step: int) -> None:
    """Seed torch for one step, so that networks with randomness inside resume, and share a pass, without a trace."""
    philox = np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=step + (rank() << 64))
    torch.manual_seed(int(philox.random_raw()) >> 1)
