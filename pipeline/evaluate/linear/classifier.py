"""Linear classifiers on frozen features, by SGD: what the linear and the low-shot evaluation train.

Several learning rates are trained at once: their classifiers lie side by side in one array, so that a step is two matrix
products whatever their number. The gradient of the cross-entropy is written out, so nothing is kept for a backward pass,
and no step waits for the device.

Letters: N images, D features, C classes, G learning rates, B images of a step, K crops, R rows of a block.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import normalize, pad

from compress_ssl.pipeline.common.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from compress_ssl.pipeline.evaluate.settings import LinearTraining

    Blocks = Iterable[npt.NDArray[np.floating]]
    """Features (R, D), block after block."""

VARIANCE_EPSILON = 1e-5
TOP = 5
ROWS_AT_ONCE = 4096


class Batch(NamedTuple):
    """Images of one step, on the device."""

    features: Tensor
    """(B, D), as the network gives them."""
    labels: Tensor
    """(B,) int64."""


class Standardisation(NamedTuple):
    """Each row to unit length, then each feature to zero mean and unit variance."""

    mean: Tensor
    """(D,) float32."""
    inverse_deviation: Tensor
    """(D,) float32."""

    def __call__(self, features: Tensor) -> Tensor:
        """Standardise features (B, D)."""
        return (_unit(features.float()) - self.mean) * self.inverse_deviation


def standardisation(blocks: Blocks, device: torch.device | str = "cpu") -> Standardisation:
    """Mean and deviation of features after L2-normalisation, summed in float64, read once.

    The variance is divided by N - 1 and gets an epsilon of 1e-5, as by ``torch.var_mean`` and ``FullBatchNorm`` in
    UMBCvision/CompRess, eval_linear.py at cf33bab91f94.

    Parameters
    ----------
    blocks : iterable of float arrays of shape (R, D)
        Together at least two rows.
    """
    count, total, squares = 0, torch.zeros(1, device=device), torch.zeros(1, device=device)
    for part in _parts(blocks, device):
        unit = _unit(part.double())
        count, total, squares = count + len(unit), total + unit.sum(0), squares + unit.square().sum(0)
    mean = total / count
    variance = (squares - count * mean.square()).clamp(min=0) / (count - 1)
    return Standardisation(mean.float(), (variance + VARIANCE_EPSILON).rsqrt().float())


class Classifiers(NamedTuple):
    """Linear classifiers, one for each learning rate, and what their features go through first."""

    parameters: Tensor
    """(D + 1, G, C) float32; the last row is the bias."""
    standardise: Standardisation

    def logits(self, features: Tensor) -> Tensor:
        """Logits (B, G, C) of features (B, D)."""
        return _logits(self.parameters, _with_one(self.standardise(features)))


class TrainingState(NamedTuple):
    """What a training goes on from."""

    epoch: int
    """Epochs done."""
    parameters: Tensor
    """(D + 1, G, C)"""
    momentum: Tensor
    """(D + 1, G, C)"""


def initial_state(features: int, classes: int, rates: int, settings: LinearTraining) -> TrainingState:
    """G equal classifiers of C classes, uniform in plus or minus one over the root of D, as torch's Linear."""
    drawn = torch.rand(features + 1, 1, classes, generator=torch.Generator().manual_seed(settings.seed))
    parameters = ((2 * drawn - 1) / math.sqrt(features)).repeat(1, rates, 1)
    return TrainingState(0, parameters, torch.zeros_like(parameters))


@torch.no_grad()
def train_classifiers(
    epochs: Iterable[Iterable[Batch]],
    standardise: Standardisation,
    state: TrainingState,
    rates: Sequence[float],
    settings: LinearTraining,
    keep: Callable[[TrainingState], None] = lambda state: None,
) -> Classifiers:
    """Train by SGD with momentum; as in torch's, weight decay is of the bias too.

    Parameters
    ----------
    epochs : iterable of iterables of Batch
        Those that are left to do.
    standardise : Standardisation
    state : TrainingState
        Where to begin.
    rates : sequence of float
        G learning rates.
    settings : LinearTraining
    keep : callable
        Told the state after every epoch.

    Raises
    ------
    RunError
        If no rate gives weights that are numbers.
    """
    device = standardise.mean.device
    parameters, momentum = state.parameters.to(device, copy=True), state.momentum.to(device, copy=True)
    for epoch, batches in enumerate(epochs, state.epoch):
        decay = settings.gamma ** sum(epoch >= milestone for milestone in settings.drops)
        step_size = torch.tensor([rate * decay for rate in rates], device=device)[:, None]  # (G, 1)
        for batch in batches:
            inputs = _with_one(standardise(batch.features))  # (B, D + 1)
            error = _logits(parameters, inputs).softmax(2)  # (B, G, C): probabilities, then less one for the truth
            truth = batch.labels[:, None, None].expand(-1, len(rates), 1)
            error.scatter_add_(2, truth, torch.full_like(truth, -1, dtype=error.dtype))
            momentum.flatten(1).addmm_(
                inputs.T, error.flatten(1), beta=settings.momentum, alpha=1 / len(inputs)
            )  # (D + 1, G * C)
            momentum.add_(parameters, alpha=settings.weight_decay)
            parameters.addcmul_(momentum, step_size, value=-1)
        keep(TrainingState(epoch + 1, parameters, momentum))
    if not parameters.isfinite().all(2).all(0).any():
        raise RunError("The classifier's weights are not numbers any more; lower --learning-rate.")
    return Classifiers(parameters, standardise)


class Accuracy(NamedTuple):
    """Of each of G classifiers, in percent."""

    top1_percent: list[float]
    top5_percent: list[float]


@torch.no_grad()
def accuracy(classifiers: Classifiers, crops: Sequence[Blocks], labels: npt.NDArray[np.integer]) -> Accuracy:
    """How often the true class is the first, and among the first five.

    Parameters
    ----------
    classifiers : Classifiers
    crops : sequence of iterables of float arrays of shape (R, D)
        Features of all N images in each of K crops. Of several, an image's probabilities (softmax) are averaged over
        them: Krizhevsky, Sutskever, Hinton 2012, section 4.1; facebookresearch/deepcluster, eval_linear.py at 1b56beceacf6.
    labels : int array of shape (N,)
    """
    device = classifiers.parameters.device
    truth = torch.from_numpy(labels).to(device, torch.int64)
    hits = torch.zeros(2, classifiers.parameters.shape[1], dtype=torch.int64, device=device)
    start = 0
    for parts in zip(*(_parts(blocks, device) for blocks in crops), strict=True):
        scores = _scores(classifiers, parts)  # (R, G, C)
        finite = scores.isfinite().all(2)  # a classifier that diverged knows nothing
        here = truth[start : start + len(scores), None, None]
        among = (scores.topk(min(TOP, scores.shape[2]), dim=2).indices == here) & finite[:, :, None]  # (R, G, 5)
        hits += torch.stack([among[:, :, 0].sum(0), among.sum((0, 2))])
        start += len(scores)
    top1, top5 = (100 * hits.double() / len(labels)).tolist()
    return Accuracy(top1, top5)


def _scores(classifiers: Classifiers, crops: Sequence[Tensor]) -> Tensor:
    if len(crops) == 1:
        return classifiers.logits(crops[0])
    total = torch.zeros(1, dtype=torch.float64, device=crops[0].device)
    for crop in crops:
        total = total + classifiers.logits(crop).double().softmax(2)
    return total / len(crops)


def _parts(blocks: Blocks, device: torch.device | str) -> Iterator[Tensor]:
    """Blocks on the device, in parts that are small in float64 too."""
    for block in blocks:
        for part in torch.split(torch.from_numpy(block), ROWS_AT_ONCE):
            yield part.to(device)


def _unit(features: Tensor) -> Tensor:
    return normalize(features, dim=1, eps=torch.finfo(torch.float32).tiny)


def _with_one(features: Tensor) -> Tensor:
    return pad(features, (0, 1), value=1)


def _logits(parameters: Tensor, inputs: Tensor) -> Tensor:
    return (inputs @ parameters.flatten(1)).view(len(inputs), *parameters.shape[1:])
