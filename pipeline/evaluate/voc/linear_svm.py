"""One linear support vector machine per class, for images of several classes; ``classify.py`` has the protocol.

Letters: N images, C classes, D features.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.pipeline.evaluate.voc.average_precision import classification_average_precision
from compress_ssl.pipeline.images.sources.voc import Annotation

PRESENT, DIFFICULT, ABSENT = 1, 0, -1
"""Label of an image for a class: an object of it, difficult ones only, none. The numbers are VOC's own."""

FOLDS = 3


class ClassPrecision(Settings):
    """Results of one class."""

    name: str
    average_precision_percent: float  # by eleven points
    area_percent: float  # average precision as the area under the curve, scikit-learn's
    cost: float  # C of the support vector machine, selected on the training images
    train_positives: int
    test_positives: int


class MultiLabelFeatures(NamedTuple):
    """Features of N images and their labels for C classes."""

    features: npt.NDArray[np.float64]  # (N, D), L2-normalised
    labels: npt.NDArray[np.int8]  # (N, C) PRESENT, DIFFICULT or ABSENT


def class_labels(annotations: Sequence[Annotation], names: Sequence[str]) -> npt.NDArray[np.int8]:
    """Return the label of each of N images for each of C classes: (N, C) PRESENT, DIFFICULT or ABSENT."""
    labels = np.full((len(annotations), len(names)), ABSENT, np.int8)
    number = {name: position for position, name in enumerate(names)}
    for row, annotation in zip(labels, annotations, strict=True):
        for name, difficult in zip(annotation.classes, annotation.difficult, strict=True):
            row[number[name]] = max(row[number[name]], DIFFICULT if difficult else PRESENT)
    return labels


def unusable_classes(
    train_labels: npt.NDArray[np.int8], test_labels: npt.NDArray[np.int8], names: Sequence[str]
) -> dict[str, str]:
    """Return the classes that labels (N, C) are too few to train or to score, each with the reason, a sentence."""
    reasons = {}
    for name, train, test in zip(names, train_labels.T, test_labels.T, strict=True):
        few = min(int((train == PRESENT).sum()), int((train == ABSENT).sum()))
        if few < FOLDS:
            reasons[name] = (
                f"Its positives or its negatives are only {few} training images, fewer than the {FOLDS} folds of the "
                "cross validation."
            )
        elif not (test == PRESENT).any():
            reasons[name] = "No test image shows it."
    return reasons


def class_precision(
    name: str, train: MultiLabelFeatures, test: MultiLabelFeatures, number: int, costs: Sequence[float], seed: int
) -> ClassPrecision:
    """Select the cost of class ``number`` by cross validation, train with it, and score the test images.

    The first of equally good costs is selected; ``seed`` is LIBLINEAR's, for its order of the images.
    """
    counted = train.labels[:, number] != DIFFICULT
    features, present = train.features[counted], train.labels[counted, number] == PRESENT
    precisions = [_cross_validate(features, present, cost, seed) for cost in costs]
    cost = costs[int(np.argmax(precisions))]
    scores = _fit_svm(features, present, cost, seed).decision_function(test.features)
    labels = test.labels[:, number]
    scored = labels != DIFFICULT
    precision = classification_average_precision(scores, labels == PRESENT, labels == DIFFICULT)
    area = float(average_precision_score(labels[scored] == PRESENT, scores[scored]))
    return ClassPrecision(
        name=name,
        average_precision_percent=100 * precision,
        area_percent=100 * area,
        cost=cost,
        train_positives=int(present.sum()),
        test_positives=int((labels == PRESENT).sum()),
    )


def _cross_validate(features: npt.NDArray[np.float64], present: npt.NDArray[np.bool_], cost: float, seed: int) -> float:
    """Return the mean average precision over the folds, each scored by a machine trained on the others."""
    precisions = []
    for others, fold in StratifiedKFold(FOLDS).split(features, present):
        svm = _fit_svm(features[others], present[others], cost, seed)
        precisions.append(average_precision_score(present[fold], svm.decision_function(features[fold])))
    return float(np.mean(precisions))


def _fit_svm(features: npt.NDArray[np.float64], present: npt.NDArray[np.bool_], cost: float, seed: int) -> LinearSVC:
    """Fit LIBLINEAR with the benchmark's settings; as there, it may stop before it converges at a high cost."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LinearSVC(
            C=cost, class_weight={True: 2, False: 1}, dual=True, tol=1e-4, max_iter=2000, random_state=seed % 2**32
        ).fit(features, present)
