"""Classification on VOC: one linear SVM per class on frozen features, eleven-point average precision.

The protocol is Goyal et al. 2019 (Scaling and Benchmarking Self-Supervised Visual Representation Learning;
``tools/svm`` of facebookresearch/fair_self_supervision_benchmark, 863f34e): features of the evaluation view,
L2-normalised; LIBLINEAR with squared hinge loss, positives weighted twice; for each class the cost with the best
average precision in a 3-fold cross validation on the training images. CompRess's number for AlexNet is of "fc8 only"
(section 4), a linear classifier on frozen features too. The other common protocol, ``eval_voc_classif.py`` of
facebookresearch/deepcluster, trains on random crops by SGD; this one has no learning rate or schedule to choose, needs
one forward pass, and is deterministic.

Two things differ. The benchmark trains on images with difficult objects of a class only, as negatives; here they are
left out, as in its test. And it reports the area under the curve; here that is reported beside VOC2007's eleven-point
rule.

Letters: N images, C classes, D features.
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.pipeline.evaluate.feature_source import FeatureSource
from compress_ssl.pipeline.evaluate.settings import VocClassifySettings
from compress_ssl.pipeline.evaluate.voc.average_precision import classification_average_precision
from compress_ssl.pipeline.images.sources.voc import Annotation, check_voc, find_classes, read_annotations
from compress_ssl.storage import Split

logger = logging.getLogger(__name__)


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


class VocClassifyResult(Settings):
    """Average precision, in percent."""

    mean_average_precision_percent: float  # over the classes, by eleven points
    mean_area_percent: float
    classes: tuple[ClassPrecision, ...]
    left_out: dict[str, str]  # classes that are not scored, each with the reason
    train_images: int
    test_images: int

    def scores(self) -> dict[str, float]:
        """Return the eleven-point mean average precision by column heading."""
        return {"VOC classification": self.mean_average_precision_percent}


def evaluate_voc_classify(
    settings: VocClassifySettings, source: FeatureSource, progress: Progress
) -> VocClassifyResult:
    """Train and score one linear classifier per class; classes with too few images are left out.

    Raises:
        InputError: If the dataset is not in VOC's layout, an annotation cannot be used, or every class has too few
            images.
    """
    from joblib import Parallel, delayed  # type: ignore[import-untyped]

    if settings.data is None:
        raise InputError("--data is needed for the annotations of the images; give the folder with JPEGImages.")
    check_voc(settings.data)
    store = source.features(labelled=False)
    train_features, train_annotations = _read_split("training", store[settings.train_split], source, settings.data)
    test_features, test_annotations = _read_split("test", store[settings.test_split], source, settings.data)
    names = find_classes([*train_annotations, *test_annotations])
    train = MultiLabelFeatures(train_features, class_labels(train_annotations, names))
    test = MultiLabelFeatures(test_features, class_labels(test_annotations, names))
    left_out = unusable_classes(train.labels, test.labels, names)
    for name, reason in left_out.items():
        logger.warning("The class '%s' is left out: %s", name, reason)
    numbers = [number for number, name in enumerate(names) if name not in left_out]
    if not numbers:
        raise InputError(
            f"None of the {len(names)} classes of '{settings.data}' has enough images both to train on in split "
            f"{settings.train_split} and to score in {settings.test_split}; give splits with more images."
        )
    results = []
    tasks = [
        delayed(class_precision)(names[number], train, test, number, settings.cost, settings.seed) for number in numbers
    ]
    with progress.track("support vector machines", len(numbers), "classes") as advance:
        for result in Parallel(n_jobs=min(settings.thread_count, len(tasks)), return_as="generator")(tasks):
            results.append(result)
            advance(1)
    return VocClassifyResult(
        mean_average_precision_percent=float(np.mean([each.average_precision_percent for each in results])),
        mean_area_percent=float(np.mean([each.area_percent for each in results])),
        classes=tuple(results),
        left_out=left_out,
        train_images=len(train.features),
        test_images=len(test.features),
    )


class MultiLabelFeatures(NamedTuple):
    """Features of N images and their labels for C classes."""

    features: npt.NDArray[np.float64]  # (N, D), L2-normalised
    labels: npt.NDArray[np.int8]  # (N, C) PRESENT, DIFFICULT or ABSENT


def class_labels(annotations: Sequence[Annotation], names: Sequence[str]) -> npt.NDArray[np.int8]:
    """Return the label of each of N images for each of C classes: (N, C) PRESENT, DIFFICULT or ABSENT."""
    labels = np.full((len(annotations), len(names)), ABSENT, np.int8)
    for row, annotation in zip(labels, annotations, strict=True):
        for name, difficult in zip(annotation.classes, annotation.difficult, strict=True):
            row[names.index(name)] = max(row[names.index(name)], DIFFICULT if difficult else PRESENT)
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
    precisions = np.zeros((len(costs), FOLDS))  # of each fold, by a machine trained on the others
    for row, cost in zip(precisions, costs, strict=True):
        for fold, (others, held_out) in enumerate(StratifiedKFold(FOLDS).split(features, present)):
            svm = _fit_svm(features[others], present[others], cost, seed)
            row[fold] = average_precision_score(present[held_out], svm.decision_function(features[held_out]))
    cost = costs[int(precisions.mean(axis=1).argmax())]
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


def _fit_svm(features: npt.NDArray[np.float64], present: npt.NDArray[np.bool_], cost: float, seed: int) -> LinearSVC:
    """Fit LIBLINEAR with the benchmark's settings; as there, it may stop before it converges at a high cost."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LinearSVC(
            C=cost, class_weight={True: 2, False: 1}, dual=True, tol=1e-4, max_iter=2000, random_state=seed % 2**32
        ).fit(features, present)


def _read_split(
    name: str, split: Split, source: FeatureSource, data: Path
) -> tuple[npt.NDArray[np.float64], list[Annotation]]:
    """Return features (N, D) and annotations of the good images; the features are L2-normalised as in the benchmark."""
    good = np.flatnonzero(split.samples.good)
    annotations = read_annotations(
        data, [split.samples.sample_path[row] for row in good], split.samples.image_size[good]
    )
    features = source.read(name, split, labelled=False).in_memory().features.astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True) + 1e-5
    return features, annotations
