"""Learning rate, sample order, optimizer and seeds: functions of settings and step, with no state to checkpoint."""

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from compress_ssl.pipeline.common.rng import philox
from compress_ssl.pipeline.training.distributed import rank
from compress_ssl.pipeline.training.settings import TrainingSettings


def learning_rate(settings: TrainingSettings, epoch: int, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of one step.

    ``step``: multiplied by gamma at every milestone. ``cosine``: half a cosine from the initial rate to zero over the
    whole training (Loshchilov & Hutter 2017, without restarts), updated at every step. Both are multiplied by a linear
    warmup from zero to one over the first ``warmup_epochs`` (Goyal et al. 2017, section 2.2).

    Args:
        epoch, step: Counted from 0.
    """
    if settings.schedule == "step":
        lr = settings.learning_rate * settings.gamma ** sum(epoch >= milestone for milestone in settings.milestones)
    else:
        done = (epoch + step / steps_per_epoch) / settings.epochs
        lr = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    warmup_steps = settings.warmup_epochs * steps_per_epoch
    return lr * min(1.0, (epoch * steps_per_epoch + step + 1) / warmup_steps) if warmup_steps else lr


def make_optimizer(settings: TrainingSettings, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer of the settings for the parameters that take gradients."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(trainable, settings.learning_rate, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        trainable, settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay
    )


def epoch_order(rows: npt.NDArray[np.integer], seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the rows in the random order of one epoch, a function of seed and epoch alone."""
    return philox(seed, epoch).permutation(rows).astype(np.int64)


def seed_step(seed: int, epoch: int, step: int) -> None:
    """Seed torch for one step on this rank, so that randomness inside networks is the same after a resume."""
    generator = np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=step + (rank() << 64))
    step_seed = int(generator.random_raw()) >> 1
    torch.default_generator.manual_seed(step_seed)
    if torch.cuda.is_available():  # without a GPU, torch.manual_seed formats a stack trace at every call
        torch.cuda.manual_seed_all(step_seed)
