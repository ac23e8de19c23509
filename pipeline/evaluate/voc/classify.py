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

Letters: N images, D features.
"""

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.pipeline.evaluate.feature_source import FeatureSource
from compress_ssl.pipeline.evaluate.features import check_finite
from compress_ssl.pipeline.evaluate.settings import VocClassifySettings
from compress_ssl.pipeline.evaluate.voc.linear_svm import (
    ClassPrecision,
    MultiLabelFeatures,
    class_labels,
    class_precision,
    unusable_classes,
)
from compress_ssl.pipeline.images.sources.voc import Annotation, check_voc, find_classes, read_annotations
from compress_ssl.storage import Split
from compress_ssl.storage.schema import EVALUATION_VIEW

logger = logging.getLogger(__name__)


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
        raise InputError(
            "--data is needed for the annotations of the images; give the folder that contains JPEGImages."
        )
    check_voc(settings.data)
    store = source.features(labelled=False)
    splits = store[settings.train_split], store[settings.test_split]
    train_annotations, test_annotations = (_annotations(settings.data, split) for split in splits)
    names = find_classes([*train_annotations, *test_annotations])
    train = MultiLabelFeatures(_features("training", splits[0]), class_labels(train_annotations, names))
    test = MultiLabelFeatures(_features("test", splits[1]), class_labels(test_annotations, names))
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


def _annotations(data: Path, split: Split) -> list[Annotation]:
    good = np.flatnonzero(split.samples.good)
    paths = [split.samples.sample_path[row] for row in good]
    return read_annotations(data, paths, split.samples.image_size[good])


def _features(name: str, split: Split) -> npt.NDArray[np.float64]:
    """Return the features (N, D) of the good images of a split, L2-normalised as in the benchmark."""
    good = np.flatnonzero(split.samples.good)
    features = split.rows(EVALUATION_VIEW, good).astype(np.float64)
    check_finite(name, features, good)
    features /= np.linalg.norm(features, axis=1, keepdims=True) + 1e-5
    return features
