"""Fitting a linear classifier with one learning rate, or with the best of a grid, selected on held-out training images.

With a grid all rates are trained side by side on nine tenths of the training images; the one that is best on view 0 of
the rest is selected (the smallest of equals), and the classifier is trained again with it on all. The test images are
not used. An interrupted training is resumed from its last complete epoch if it has a file for its state.

Letters: N training images, D features.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.rng import philox
from compress_ssl.pipeline.evaluate.linear.batches import LiveViews, Rows, StoredViews
from compress_ssl.pipeline.evaluate.linear.classifier import (
    Classifiers,
    Standardisation,
    accuracy,
    initial_state,
    train_classifiers,
)
from compress_ssl.pipeline.evaluate.linear_training import UnfinishedTraining
from compress_ssl.pipeline.evaluate.settings import LinearTraining
from compress_ssl.pipeline.training.distributed import broadcast_from_rank0, is_rank0

HELD_OUT_SHARE = 0.1
HELD_OUT_DRAW = 2**32  # number of the draw of held-out images; no epoch has it


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

    def train(title: str, rows: Rows, rates: Sequence[float]) -> Classifiers:
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
        candidates = train("choose a learning rate", training, rates)
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
