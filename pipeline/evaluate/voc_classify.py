"""Classification on VOC: a linear support vector machine a class on frozen features, average precision by eleven points.

The protocol is Goyal et al. 2019 (Scaling and Benchmarking Self-Supervised Visual Representation Learning, section 5.1;
``tools/svm`` of facebookresearch/fair_self_supervision_benchmark, 863f34e): features of the evaluation view, L2-normalised;
LIBLINEAR with squared hinge loss, positives weighted twice; for each class the cost with the best average precision in a
3-fold cross validation on the training images. CompRess reports its AlexNet "fc8 only" (table 5), which is a linear classifier
on frozen features too; how it was trained was not published. Of the published ways this one has no learning rate to choose,
and gives the same result every time.

Two things differ. The benchmark trains on images that show a class in difficult objects only, as negatives; here they are left out,
as in its test. And it reports the area under the curve; here that stands beside the eleven points of VOC2007.

Letters: N images, C classes, D features.
"""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.errors import InputError
from pipeline.evaluate.average_precision import classification_average_precision
from pipeline.evaluate.features import check_numbers
from pipeline.images.voc import find_classes, read_annotations
from pipeline.settings import Settings
from storage.schema import EVALUATION_VIEW

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from sklearn.svm import LinearSVC

    from pipeline.evaluate.settings import VocClassifySettings
    from pipeline.evaluate.subject import Subject
    from pipeline.images.voc import Annotation
    from pipeline.progress import Progress
    from storage import Split

logger = logging.getLogger(__name__)

PRESENT, DIFFICULT, ABSENT = 1, 0, -1
"""What an image shows of a class: an object of it, difficult ones only, none. The numbers are VOC's own."""

FOLDS = 3


class VocClass(Settings):
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


class VocClassifyResult(Settings):
    """Average precision, in percent."""

    mean_average_precision_percent: float
    """Over the classes, by eleven points."""
    mean_area_percent: float
    classes: tuple[VocClass, ...]
    left_out: dict[str, str]
    """Classes that do not count, each with the reason."""
    train_images: int
    test_images: int

    def scores(self) -> dict[str, float]:
        """Mean average precision by eleven points."""
        return {"VOC classification": self.mean_average_precision_percent}


class MarkedFeatures(NamedTuple):
    """Features of N images, and what they show of C classes."""

    features: npt.NDArray[np.float64]
    """(N, D), L2-normalised."""
    marks: npt.NDArray[np.int8]
    """(N, C) PRESENT, DIFFICULT or ABSENT."""


def evaluate_voc_classify(settings: VocClassifySettings, subject: Subject, progress: Progress) -> VocClassifyResult:
    """Train and score one linear classifier a class; classes with too few images are left out.

    Raises
    ------
    InputError
        If the data are not in VOC's layout, an annotation cannot be used, or every class has too few images.
    """
    if settings.data is None:
        raise InputError("--data is needed: the annotations say what the images show; give the folder of JPEGImages.")
    store = subject.features(labelled=False)
    splits = store[settings.train_split], store[settings.test_split]
    train_annotations, test_annotations = (_annotations(settings.data, split) for split in splits)
    names = find_classes([*train_annotations, *test_annotations])
    train = MarkedFeatures(_features("training", splits[0]), class_marks(train_annotations, names))
    test = MarkedFeatures(_features("test", splits[1]), class_marks(test_annotations, names))
    left_out = reasons_to_leave_out(train.marks, test.marks, names)
    for name, reason in left_out.items():
        logger.warning("The class '%s' is left out: %s", name, reason)
    numbers = [number for number, name in enumerate(names) if name not in left_out]
    if not numbers:
        raise InputError(
            f"None of the {len(names)} classes of '{settings.data}' can be both learnt from split {settings.train_split} and "
            f"scored on {settings.test_split}; give splits with enough images with and without objects of a class."
        )
    with progress.track("support vector machines", len(numbers), "classes") as advance:
        results = []
        for result in _classify_all(names, numbers, train, test, settings):
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


def classify(
    name: str,
    train: MarkedFeatures,
    test: MarkedFeatures,
    number: int,
    costs: Sequence[float],
    seed: int,
) -> VocClass:
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
    return VocClass(
        name=name,
        average_precision_percent=100 * precision,
        area_percent=100 * area,
        cost=cost,
        train_positives=int(present.sum()),
        test_positives=int((marks == PRESENT).sum()),
    )


def _classify_all(
    names: Sequence[str],
    numbers: Sequence[int],
    train: MarkedFeatures,
    test: MarkedFeatures,
    settings: VocClassifySettings,
) -> Iterator[VocClass]:
    """The classes one after the other; computed in as many processes as there are threads."""
    from joblib import Parallel, delayed  # type: ignore[import-untyped]

    tasks = [delayed(classify)(names[number], train, test, number, settings.cost, settings.seed) for number in numbers]
    yield from Parallel(n_jobs=min(settings.thread_count, len(tasks)), return_as="generator")(tasks)


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


def _annotations(data: Path, split: Split) -> list[Annotation]:
    good = np.flatnonzero(split.samples.good)
    paths = [split.samples.sample_path[row] for row in good]
    return read_annotations(data, paths, split.samples.image_size[good])


def _features(name: str, split: Split) -> npt.NDArray[np.float64]:
    """Features (N, D) of the good images of a split, L2-normalised as the benchmark does it."""
    good = np.flatnonzero(split.samples.good)
    features = split.rows(EVALUATION_VIEW, good).astype(np.float64)
    check_numbers(name, features, good)
    normalised: npt.NDArray[np.float64] = features / (np.linalg.norm(features, axis=1, keepdims=True) + 1e-5)
    return normalised
