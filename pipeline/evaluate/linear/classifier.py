"""Linear classifiers on frozen features, trained by SGD: the model of the linear and the low-shot evaluation.

Several learning rates are trained at once: their classifiers are stacked in one tensor, so that a step is two matrix
products whatever their number, and each is a parameter group of the optimizer.

Letters: N images, D features, C classes, G learning rates, B images of a step, K crops, R rows of a block.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, pad

from compress_ssl.pipeline.common.errors import RunError
from compress_ssl.pipeline.evaluate.linear_training import run_epochs
from compress_ssl.pipeline.evaluate.settings import LinearTraining

Blocks = Iterable[npt.NDArray[np.floating]]  # features (R, D), block by block

VARIANCE_EPSILON = 1e-5
TOP = 5
CHUNK_ROWS = 4096


class Batch(NamedTuple):
    """Images of one step, on the device."""

    features: Tensor  # (B, D), as the network outputs them
    labels: Tensor  # (B,) int64


class Standardisation(NamedTuple):
    """Scales each row to unit length, then each feature to zero mean and unit variance."""

    mean: Tensor  # (D,) float32
    inverse_deviation: Tensor  # (D,) float32

    def __call__(self, features: Tensor) -> Tensor:
        """Standardise features (B, D)."""
        return (_l2_normalize(features.float()) - self.mean) * self.inverse_deviation


def standardisation(blocks: Blocks, device: torch.device | str = "cpu") -> Standardisation:
    """Compute mean and deviation of L2-normalised features, summed in float64, in one pass.

    The variance is divided by N - 1, and 1e-5 is added to it, as by ``torch.var_mean`` and ``FullBatchNorm`` in
    UMBCvision/CompRess, eval_linear.py at cf33bab91f94.

    Args:
        blocks (iterable of float arrays of shape (R, D)): At least two rows in total.
    """
    count, total, squares = 0, torch.zeros(1, device=device), torch.zeros(1, device=device)
    for chunk in _chunks(blocks, device):
        unit = _l2_normalize(chunk.double())
        count, total, squares = count + len(unit), total + unit.sum(0), squares + unit.square().sum(0)
    mean = total / count
    variance = (squares - count * mean.square()).clamp(min=0) / (count - 1)
    return Standardisation(mean.float(), (variance + VARIANCE_EPSILON).rsqrt().float())


class Classifiers(NamedTuple):
    """Linear classifiers, one per learning rate, and the standardisation of their input."""

    parameters: Tensor  # (D + 1, G, C) float32; the last row is the bias
    standardise: Standardisation

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (B, G, C) of features (B, D)."""
        inputs = pad(self.standardise(features), (0, 1), value=1)
        return (inputs @ self.parameters.flatten(1)).view(len(inputs), *self.parameters.shape[1:])


def initial_state(features: int, classes: int, rates: int, settings: LinearTraining) -> dict[str, Tensor]:
    """Return the state of G equal classifiers of C classes, uniform in +-1 / sqrt(D) as by ``torch.nn.Linear``."""
    drawn = torch.rand(features + 1, 1, classes, generator=torch.Generator().manual_seed(settings.seed))
    parameters = ((2 * drawn - 1) / math.sqrt(features)).repeat(1, rates, 1)
    return {"epoch": torch.tensor(0), "parameters": parameters, "momentum": torch.zeros_like(parameters)}


def train_classifiers(
    epochs: Iterable[Iterable[Batch]],
    standardise: Standardisation,
    state: Mapping[str, Tensor],
    rates: Sequence[float],
    settings: LinearTraining,
    keep: Callable[[dict[str, Tensor]], None] = lambda state: None,
) -> Classifiers:
    """Train by SGD with momentum; as always in torch, the weight decay includes the bias.

    Args:
        epochs (iterable of iterables of Batch): Those left to do.
        state: To start or resume from: ``epoch``, the number done; ``parameters`` and ``momentum`` (D + 1, G, C).
        rates: G learning rates.
        keep: Called with the state after every epoch.

    Raises:
        RunError: If no rate leads to finite weights.
    """
    device = standardise.mean.device
    parameters = state["parameters"].to(device, copy=True).requires_grad_()
    gradient = parameters.grad = torch.zeros_like(parameters)
    momentum = state["momentum"].to(device, copy=True)
    optimizer = torch.optim.SGD(
        [
            {"params": [nn.Parameter(weights)], "lr": rate}
            for weights, rate in zip(parameters.unbind(1), rates, strict=True)
        ],
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    for number, group in enumerate(optimizer.param_groups):  # views of the stacked tensors
        (weights,) = group["params"]
        weights.grad = gradient[:, number]
        optimizer.state[weights]["momentum_buffer"] = momentum[:, number]
    classifiers = Classifiers(parameters, standardise)

    def loss(batch: Batch) -> Tensor:
        logits = classifiers.logits(batch.features).transpose(1, 2)  # (B, C, G)
        labels = batch.labels[:, None].expand(-1, len(rates))
        return cross_entropy(logits, labels, reduction="sum") / len(labels)

    def learning_rate(initial: float, epoch: int, step: int) -> float:
        return initial * settings.gamma ** sum(epoch >= milestone for milestone in settings.drops)

    def after_epoch(epoch: int, step: int) -> None:
        keep({"epoch": torch.tensor(epoch), "parameters": parameters.detach(), "momentum": momentum})

    first = int(state["epoch"])
    run_epochs(epochs, loss, optimizer, learning_rate, after_epoch, first, zero_grad=gradient.zero_)
    parameters.requires_grad_(False)
    if not parameters.isfinite().all(2).all(0).any():
        raise RunError("The classifier's weights are no longer finite; lower --learning-rate.")
    return classifiers


class Accuracy(NamedTuple):
    """Accuracy of each of G classifiers, in percent."""

    top1_percent: list[float]
    top5_percent: list[float]


@torch.no_grad()
def accuracy(classifiers: Classifiers, crops: Sequence[Blocks], labels: npt.NDArray[np.integer]) -> Accuracy:
    """Compute top-1 and top-5 accuracy.

    Args:
        crops (sequence of iterables of float arrays of shape (R, D)): Features of all N images in each of K crops. An
            image's probabilities (softmax) are averaged over several: Krizhevsky, Sutskever, Hinton 2012, section 4.1;
            facebookresearch/deepcluster, eval_linear.py at 1b56beceacf6.
        labels (int array of shape (N,))
    """
    device = classifiers.parameters.device
    truth = torch.from_numpy(labels).to(device, torch.int64)
    hits = torch.zeros(2, classifiers.parameters.shape[1], dtype=torch.int64, device=device)
    start = 0
    for chunks in zip(*(_chunks(blocks, device) for blocks in crops), strict=True):
        scores = _scores(classifiers, chunks)  # (R, G, C)
        finite = scores.isfinite().all(2)  # a diverged classifier has no hits
        here = truth[start : start + len(scores), None, None]
        among = (scores.topk(min(TOP, scores.shape[2]), dim=2).indices == here) & finite[:, :, None]  # (R, G, 5)
        hits += torch.stack([among[:, :, 0].sum(0), among.sum((0, 2))])
        start += len(scores)
    top1, top5 = (100 * hits.double() / len(labels)).tolist()
    return Accuracy(top1, top5)


def _scores(classifiers: Classifiers, crops: Sequence[Tensor]) -> Tensor:
    """Return logits (R, G, C) for one crop, mean probabilities for several."""
    if len(crops) == 1:
        return classifiers.logits(crops[0])
    total = torch.zeros(1, dtype=torch.float64, device=crops[0].device)
    for crop in crops:
        total = total + classifiers.logits(crop).double().softmax(2)
    return total / len(crops)


def _chunks(blocks: Blocks, device: torch.device | str) -> Iterator[Tensor]:
    """Yield blocks on the device, in chunks that are small in float64 too."""
    for block in blocks:
        for chunk in torch.split(torch.from_numpy(block), CHUNK_ROWS):
            yield chunk.to(device)


def _l2_normalize(features: Tensor) -> Tensor:
    return normalize(features, dim=1, eps=torch.finfo(torch.float32).tiny)
