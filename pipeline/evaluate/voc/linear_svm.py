"""One linear support vector machine a class, for images that show several classes; ``voc_classify.py`` has the protocol.

Letters: N images, C classes, D features.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.pipeline.evaluate.voc.average_precision import classification_average_precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from sklearn.svm import LinearSVC

    from compress_ssl.pipeline.images.voc import Annotation

PRESENT, DIFFICULT, ABSENT = 1, 0, -1
"""What an image shows of a class: an object of it, difficult ones only, none. The numbers are VOC's own."""

FOLDS = 3


class ClassPrecision(Settings):
    """What was found of one class."""

    name: str
    average_precision_percent: float
    """By eleven points."""
    area_percent: float
    """Average precision as the area under the curve, scikit-learn's."""
    cost: float
    """Of the support vector machine, chosen on the training images."""
    train_positives: int
    test_positives: int


class MarkedFeatures(NamedTuple):
    """Features of N images, and what they show of C classes."""

    features: npt.NDArray[np.float64]
    """(N, D), L2-normalised."""
    marks: npt.NDArray[np.int8]
    """(N, C) PRESENT, DIFFICULT or ABSENT."""


def class_marks(annotations: Sequence[Annotation], names: Sequence[str]) -> npt.NDArray[np.int8]:
    """What each of N images shows of each of C classes: (N, C) PRESENT, DIFFICULT or ABSENT."""
    marks = np.full((len(annotations), len(names)), ABSENT, np.int8)
    number = {name: position for position, name in enumerate(names)}
    for row, annotation in zip(marks, annotations, strict=True):
        for name, difficult in zip(annotation.classes, annotation.difficult, strict=True):
            row[number[name]] = max(row[number[name]], DIFFICULT if difficult else PRESENT)
    return marks


def reasons_to_leave_out(
    train_marks: npt.NDArray[np.int8], test_marks: npt.NDArray[np.int8], names: Sequence[str]
) -> dict[str, str]:
    """The classes that the marks (N, C) do not suffice to learn or to score, each with the reason, a sentence."""
    reasons = {}
    for name, train, test in zip(names, train_marks.T, test_marks.T, strict=True):
        few = min(int((train == PRESENT).sum()), int((train == ABSENT).sum()))
        if few < FOLDS:
            reasons[name] = (
                f"{few} training images differ from all others in it, fewer than the {FOLDS} folds of the cross validation."
            )
        elif not (test == PRESENT).any():
            reasons[name] = "No test image shows it."
    return reasons


def class_precision(
    name: str,
    train: MarkedFeatures,
    test: MarkedFeatures,
    number: int,
    costs: Sequence[float],
    seed: int,
) -> ClassPrecision:
    """Choose the cost of class ``number`` by cross validation, train with it, and score the test images.

    Parameters
    ----------
    costs : sequence of float
        To choose from; of equally good ones the first is taken.
    seed : int
        Of LIBLINEAR's order of the images.
    """
    from sklearn.metrics import average_precision_score

    counted = train.marks[:, number] != DIFFICULT
    features, present = train.features[counted], train.marks[counted, number] == PRESENT
    precisions = [_validated_precision(features, present, cost, seed) for cost in costs]
    cost = costs[int(np.argmax(precisions))]
    scores = _train_machine(features, present, cost, seed).decision_function(test.features)
    marks = test.marks[:, number]
    scored = marks != DIFFICULT
    precision = classification_average_precision(scores, marks == PRESENT, marks == DIFFICULT)
    area = float(average_precision_score(marks[scored] == PRESENT, scores[scored]))
    return ClassPrecision(
        name=name,
        average_precision_percent=100 * precision,
        area_percent=100 * area,
        cost=cost,
        train_positives=int(present.sum()),
        test_positives=int((marks == PRESENT).sum()),
    )


def _validated_precision(
    features: npt.NDArray[np.float64], present: npt.NDArray[np.bool_], cost: float, seed: int
) -> float:
    """Mean over the folds of the average precision on a fold of a machine trained on the others."""
    from sklearn.metrics import average_precision_score
    from sklearn.model_selection import StratifiedKFold

    precisions = []
    for others, fold in StratifiedKFold(FOLDS).split(features, present):
        machine = _train_machine(features[others], present[others], cost, seed)
        precisions.append(average_precision_score(present[fold], machine.decision_function(features[fold])))
    return float(np.mean(precisions))


def _train_machine(
    features: npt.NDArray[np.float64], present: npt.NDArray[np.bool_], cost: float, seed: int
) -> LinearSVC:
    """A machine with the benchmark's settings. It may end before it converges, at a high cost; so does the benchmark's."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LinearSVC(
            C=cost, class_weight={True: 2, False: 1}, dual=True, tol=1e-4, max_iter=2000, random_state=seed % 2**32
        ).fit(features, present)
