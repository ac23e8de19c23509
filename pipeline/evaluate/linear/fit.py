"""Fitting a linear classifier: with one learning rate, or with the best of several, chosen on images held out of train.

With a grid all rates are trained side by side on nine tenths of the training images, the one that is best on the view 0 of
the rest wins (of equals the smallest), and the classifier is trained again with it, on all. The test images are not looked
at. A training that is interrupted goes on from its last whole epoch if it is given a place to keep it.

Letters: N training images, D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.rng import philox
from compress_ssl.pipeline.evaluate.linear.classifier import (
    Classifiers,
    TrainingState,
    accuracy,
    initial_state,
    train_classifiers,
)
from compress_ssl.pipeline.training.distributed import broadcast_from_rank0, is_rank0

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.evaluate.kept_training import KeptTraining
    from compress_ssl.pipeline.evaluate.linear.batches import Epochs, Rows
    from compress_ssl.pipeline.evaluate.linear.classifier import Standardisation
    from compress_ssl.pipeline.evaluate.settings import LinearTraining

HELD_OUT_SHARE = 0.1
HELD_OUT_DRAW = 2**32
"""Number of the draw that parts the held-out images; no epoch has it."""


class Views(Protocol):
    """Training images in random views: ``StoredViews`` or ``LiveViews``."""

    @property
    def labels(self) -> npt.NDArray[np.integer]:
        """Class numbers (N,)."""
        ...

    def epochs(
        self,
        rows: Rows,
        first: int,
        settings: LinearTraining,
        device: torch.device | str,
        advance: Callable[[int], None],
    ) -> Epochs:
        """Yield the epochs over some of the images, from epoch ``first`` on."""
        ...


class Fitted(NamedTuple):
    """A classifier, and how its learning rate was found."""

    classifiers: Classifiers
    """One."""
    learning_rate: float
    held_out_top1_percent: dict[float, float]
    """Of each rate of the grid."""


def fit(
    views: Views,
    evaluation_view: Callable[[Rows], npt.NDArray[np.floating]],
    standardise: Standardisation,
    classes: int,
    settings: LinearTraining,
    progress: Progress,
    kept: KeptTraining | None = None,
) -> Fitted:
    """Train a classifier of all images.

    Parameters
    ----------
    views : Views
    evaluation_view : callable
        Gives the features (rows, D) of some of the images in view 0.
    standardise : Standardisation
        On the device where to train.
    classes : int
    settings : LinearTraining
    progress : Progress
    kept : KeptTraining, optional
        Where the training is kept after every epoch.

    Raises
    ------
    InputError
        If a rate is to be chosen and a class has one image only.
    RunError
        If the training diverges.
    """
    labels = views.labels

    def train(title: str, rows: Rows, rates: Sequence[float]) -> Classifiers:
        course = {"rates": list(rates), "images": len(rows)}
        begun = broadcast_from_rank0(lambda: kept.read(course)) if kept else None
        state = begun and TrainingState(int(begun["epoch"]), begun["parameters"], begun["momentum"])
        state = state or initial_state(len(standardise.mean), classes, len(rates), settings)

        def keep(after: TrainingState) -> None:
            if kept and is_rank0():
                kept.write(course, {**after._asdict(), "epoch": torch.tensor(after.epoch)})

        with progress.track(title, settings.epochs * len(rows)) as advance:
            advance(state.epoch * len(rows))
            epochs = views.epochs(rows, state.epoch, settings, standardise.mean.device, advance)
            return train_classifiers(epochs, standardise, state, rates, settings, keep)

    rate, found = settings.learning_rate, {}
    if settings.lr_grid:
        rates = sorted(set(settings.lr_grid))
        training, held_out = part(labels, settings.seed)
        tried = train("choose a learning rate", training, rates)
        top1 = accuracy(tried, [[evaluation_view(held_out)]], labels[held_out]).top1_percent
        found = dict(zip(rates, top1, strict=True))
        rate = max(rates, key=lambda each: (found[each], -each))
    return Fitted(train("linear classifier", np.arange(len(labels)), [rate]), rate, found)


class Parted(NamedTuple):
    """Rows of the training images."""

    training: Rows
    held_out: Rows


def part(labels: npt.NDArray[np.integer], seed: int) -> Parted:
    """Hold out a tenth of each class, at least one image; the same for the same seed.

    Raises
    ------
    InputError
        If a class has one image only.
    """
    generator = philox(seed, HELD_OUT_DRAW)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < 2:
            raise InputError(
                f"Class {label} has one training image, so none can be held out to choose a rate of --lr-grid by; give "
                "--learning-rate."
            )
        held_out[generator.choice(rows, max(1, round(HELD_OUT_SHARE * len(rows))), replace=False)] = True
    return Parted(np.flatnonzero(~held_out), np.flatnonzero(held_out))
