"""Learning rate, sample order, optimizer and seeds: functions of settings and step, with no state to checkpoint."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from compress_ssl.pipeline.common.rng import philox
from compress_ssl.pipeline.training.distributed import rank, world_size
from compress_ssl.pipeline.training.settings import TrainingSettings


def learning_rate(settings: TrainingSettings, epoch: int, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of one step.

    ``step``: multiplied by gamma at every milestone. ``cosine``: half a cosine from the initial rate to zero over the
    whole training (Loshchilov & Hutter 2017, without restarts), updated at every step; ``cosine-per-epoch``: once per
    epoch. All are multiplied by a linear warmup from zero to one over the first ``warmup_epochs`` (Goyal et al. 2017,
    section 2.2).

    Args:
        epoch, step: Counted from 0.
    """
    if settings.schedule == "step":
        lr = settings.learning_rate * settings.gamma ** sum(epoch >= milestone for milestone in settings.milestones)
    else:
        part = step / steps_per_epoch if settings.schedule == "cosine" else 0.0
        done = (epoch + part) / settings.epochs
        lr = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    warmup_steps = settings.warmup_epochs * steps_per_epoch
    return lr * min(1.0, (epoch * steps_per_epoch + step + 1) / warmup_steps) if warmup_steps else lr


def make_optimizer(settings: TrainingSettings, modules: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of the settings for the parameters that take gradients."""
    trainable = [parameter for parameter in modules.parameters() if parameter.requires_grad]
    undecayed = {id(parameter) for parameter in _without_decay(modules, settings.no_decay_on)}
    decayed: dict[str, Any] = {"params": [each for each in trainable if id(each) not in undecayed]}
    others: dict[str, Any] = {"params": [each for each in trainable if id(each) in undecayed], "weight_decay": 0.0}
    groups = [group for group in (decayed, others) if group["params"]]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, settings.learning_rate, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        groups,
        settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
    )


def _without_decay(modules: nn.Module, which: str) -> Iterator[nn.Parameter]:
    """Yield the parameters of norm layers, which are those whose weight has one dimension; and of biases if asked."""
    for module in modules.modules() if which != "none" else ():
        weight = getattr(module, "weight", None)
        is_norm = isinstance(weight, nn.Parameter) and weight.ndim == 1
        for parameter in module.parameters(recurse=False):
            if is_norm or (which == "norms-and-biases" and parameter.ndim == 1):
                yield parameter


def images_per_epoch(images: int, settings: TrainingSettings) -> int:
    """Return how many of the images an epoch trains on: those of whole batches, with ``keep_last`` of the last as well.

    The last batch is divided equally among the ranks, without what is left over. It needs two images per rank, for
    batch norm.
    """
    rest = images % settings.batch_size
    kept = rest - rest % world_size() if settings.keep_last and rest >= 2 * world_size() else 0
    return images - rest + kept


def last_batch_record(settings: TrainingSettings, images: int) -> dict[str, int]:
    """Return what a run with ``keep_last`` records of its epochs: their images, which depend on the number of ranks."""
    return {"images_per_epoch": images} if settings.keep_last else {}


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
