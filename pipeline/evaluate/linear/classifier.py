"""Linear classifiers on frozen features, trained by SGD: the model of the linear and the low-shot evaluation.

Several learning rates are trained at once: their classifiers are stacked in one tensor, so that a step is two matrix
products whatever their number, and each is a parameter group of the optimizer.

With a grid all rates are trained side by side on nine tenths of the training images; the one that is best on view 0 of
the rest is selected (the smallest of equals), and the classifier is trained again with it on all. The test images are
not used. An interrupted training is resumed from its last complete epoch if it has a file for its state.

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

from compress_ssl.pipeline.common.errors import InputError, RunError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.rng import philox
from compress_ssl.pipeline.evaluate.linear.batches import Batch, LiveViews, Rows, StoredViews
from compress_ssl.pipeline.evaluate.settings import LinearTraining
from compress_ssl.pipeline.evaluate.unfinished_training import UnfinishedTraining
from compress_ssl.pipeline.training.distributed import broadcast_from_rank0, is_rank0

Blocks = Iterable[npt.NDArray[np.floating]]  # features (R, D), block by block

TOP = 5
CHUNK_ROWS = 4096

HELD_OUT_SHARE = 0.1
HELD_OUT_DRAW = 2**32  # number of the draw of held-out images; no epoch has it


class Standardisation(NamedTuple):
    """Scales each row to unit length, then each feature to zero mean and unit variance."""

    mean: Tensor  # (D,) float32
    inverse_deviation: Tensor  # (D,) float32

    def __call__(self, features: Tensor) -> Tensor:
        """Standardise features (B, D)."""
        return (_l2_normalize(features.float()) - self.mean) * self.inverse_deviation


def fit_standardisation(blocks: Blocks, device: torch.device | str = "cpu") -> Standardisation:
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
    return Standardisation(mean.float(), (variance + 1e-5).rsqrt().float())


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
    weights = [nn.Parameter(each) for each in parameters.unbind(1)]
    groups = [{"params": [each]} for each in weights]  # their learning rates are set at every epoch
    optimizer = torch.optim.SGD(groups, momentum=settings.momentum, weight_decay=settings.weight_decay)
    for number, each in enumerate(weights):  # gradients and momenta are views of the stacked tensors
        each.grad = gradient[:, number]
        optimizer.state[each]["momentum_buffer"] = momentum[:, number]
    classifiers = Classifiers(parameters, standardise)
    for epoch, batches in enumerate(epochs, int(state["epoch"])):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * settings.gamma ** sum(epoch >= milestone for milestone in settings.drops)
        for features, labels in batches:
            gradient.zero_()
            logits = classifiers.logits(features).transpose(1, 2)  # (B, C, G)
            loss = cross_entropy(logits, labels[:, None].expand(-1, len(rates)), reduction="sum") / len(labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        keep({"epoch": torch.tensor(epoch + 1), "parameters": parameters.detach(), "momentum": momentum})
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
        if len(chunks) == 1:
            scores = classifiers.logits(chunks[0])  # (R, G, C)
        else:
            total = torch.zeros(1, dtype=torch.float64, device=device)
            scores = sum((classifiers.logits(chunk).double().softmax(2) for chunk in chunks), total) / len(chunks)
        finite = scores.isfinite().all(2)  # a diverged classifier has no hits
        here = truth[start : start + len(scores), None, None]
        among = (scores.topk(min(TOP, scores.shape[2]), dim=2).indices == here) & finite[:, :, None]  # (R, G, 5)
        hits += torch.stack([among[:, :, 0].sum(0), among.sum((0, 2))])
        start += len(scores)
    top1, top5 = (100 * hits.double() / len(labels)).tolist()
    return Accuracy(top1, top5)


class Fitted(NamedTuple):
    """A classifier and the choice of its learning rate."""

    classifiers: Classifiers  # A single one
    learning_rate: float
    held_out_top1_percent: dict[float, float]  # of each rate of the grid


def fit(
    views: StoredViews | LiveViews,
    evaluation_view: Callable[[Rows], npt.NDArray[np.floating]],
    standardise: Standardisation,
    classes: int,
    settings: LinearTraining,
    progress: Progress,
    unfinished: UnfinishedTraining | None = None,
) -> Fitted:
    """Train a classifier on all images.

    Args:
        views (StoredViews or LiveViews): Of the training images.
        evaluation_view: Returns the features (rows, D) of some of the images in view 0.
        standardise: On the device to train on.
        unfinished: Where the state is written after every epoch.

    Raises:
        InputError: If a rate is to be selected and a class has only one image.
        RunError: If the training diverges.
    """
    labels = views.labels

    def train(
        title: str, rows: Rows, rates: Sequence[float], unfinished: UnfinishedTraining | None = unfinished
    ) -> Classifiers:
        part = {"rates": list(rates), "images": len(rows)}
        stored = broadcast_from_rank0(lambda: unfinished.read(part)) if unfinished else None
        state = stored or initial_state(len(standardise.mean), classes, len(rates), settings)

        def keep(state: dict[str, Tensor]) -> None:
            if unfinished and is_rank0():
                unfinished.write(part, state)

        with progress.track(title, settings.epochs * len(rows)) as advance:
            advance(int(state["epoch"]) * len(rows))
            epochs = views.epochs(rows, int(state["epoch"]), settings, standardise.mean.device, advance)
            return train_classifiers(epochs, standardise, state, rates, settings, keep)

    rate, found = settings.learning_rate, {}
    if settings.lr_grid:
        rates = sorted(set(settings.lr_grid))
        training, held_out = hold_out(labels, settings.seed)
        candidates = train("choose a learning rate", training, rates, unfinished and unfinished.of_part("grid"))
        top1 = accuracy(candidates, [[evaluation_view(held_out)]], labels[held_out]).top1_percent
        found = dict(zip(rates, top1, strict=True))
        rate = max(rates, key=lambda each: (found[each], -each))
    return Fitted(train("linear classifier", np.arange(len(labels)), [rate]), rate, found)


def hold_out(labels: npt.NDArray[np.integer], seed: int) -> tuple[Rows, Rows]:
    """Return the rows to train on, and a held-out tenth of each class, at least one image; the same for the same seed.

    Raises:
        InputError: If a class has only one image.
    """
    generator = philox(seed, HELD_OUT_DRAW)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < 2:
            raise InputError(
                f"Class {label} has one training image, so none can be held out to select a rate of --lr-grid; give "
                "--learning-rate."
            )
        held_out[generator.choice(rows, max(1, round(HELD_OUT_SHARE * len(rows))), replace=False)] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _chunks(blocks: Blocks, device: torch.device | str) -> Iterator[Tensor]:
    """Yield blocks on the device, in chunks that are small in float64 too."""
    for block in blocks:
        for chunk in torch.split(torch.from_numpy(block), CHUNK_ROWS):
            yield chunk.to(device)


def _l2_normalize(features: Tensor) -> Tensor:
    return normalize(features, dim=1, eps=torch.finfo(torch.float32).tiny)
