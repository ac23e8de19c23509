"""Detection on VOC: the network becomes the backbone of a detector, all layers are fine-tuned, boxes are scored.

The scores are VOC2007's eleven-point mean average precision at an IoU of 0.5, and COCO's. The schedule is that of Fast
R-CNN (Girshick 2015, sections 2.3 and 5.2: two images per step, 64 regions of each, SGD with momentum 0.9 and weight
decay 5e-4, a learning rate of 0.001, a tenth of it after 30,000 of 40,000 steps; horizontal flips; short side 600, long
side at most 1000 pixels). On the 5,011 training images of VOC2007 that is 12 and 16 epochs. Difficult objects are
neither trained on nor scored.

CompRess (section 4) used Fast R-CNN with regions from selective search. This is Faster R-CNN, which learns to propose
its regions: numbers of the two protocols are not comparable.

The training can be stopped or killed at any time, and is resumed by the same command. A training with other settings or
images starts over.
"""

from collections.abc import Sequence

import numpy as np

from compress_ssl.pipeline.common.device import prepare_device
from compress_ssl.pipeline.common.errors import InputError, require_extra
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.pipeline.evaluate.feature_source import FeatureSource
from compress_ssl.pipeline.evaluate.settings import VocDetectSettings
from compress_ssl.pipeline.evaluate.voc.average_precision import (
    Detections,
    GroundTruth,
    coco_average_precision,
    count_objects,
    detection_average_precision,
)
from compress_ssl.pipeline.evaluate.voc.detector import build_detector
from compress_ssl.pipeline.evaluate.voc.images import annotated_images, detect
from compress_ssl.pipeline.evaluate.voc.pictures import draw_boxes, draw_curve
from compress_ssl.pipeline.evaluate.voc.training import fine_tune
from compress_ssl.pipeline.images.sources.voc import check_voc
from compress_ssl.pipeline.networks.network import weights_sha256

NOTE = "Faster R-CNN; the paper's figures are of Fast R-CNN with selective search"

RUN_FOLDER = "voc-detect"
CURVE_FILE, BOXES_FILE = "voc-detect-curve.png", "voc-detect-boxes.png"


class DetectedClass(Settings):
    """Results of one class."""

    name: str
    average_precision_percent: float  # Eleven-point rule, at an IoU of 0.5
    train_objects: int  # without difficult ones
    test_objects: int


class VocDetectResult(Settings):
    """Average precision, in percent."""

    mean_average_precision_percent: float  # mean over the classes, eleven-point rule, at an IoU of 0.5
    coco_average_precision_percent: float  # mean over the classes and the IoU thresholds 0.5, 0.55, ..., 0.95
    coco_at_half_percent: float  # COCO's at an IoU of 0.5
    classes: tuple[DetectedClass, ...]  # those with an object in the test images
    train_images: int
    test_images: int
    note: str = NOTE

    def scores(self) -> dict[str, float]:
        """Return both means by column heading; the headings name the paper's detector."""
        return {
            "VOC detection (Faster R-CNN; paper: Fast R-CNN)": self.mean_average_precision_percent,
            "COCO AP (Faster R-CNN; paper: Fast R-CNN)": self.coco_average_precision_percent,
        }


def evaluate_voc_detect(settings: VocDetectSettings, source: FeatureSource, progress: Progress) -> VocDetectResult:
    """Fine-tune a detector on the training images, score it on the test images, draw its curve and some boxes.

    Raises:
        InputError: If the dataset is not in VOC's layout, an annotation or a setting cannot be used, or no detector can
            be built around the network.
        RunError: If training fails.
        Stopped: If a signal requested it.
    """
    require_extra("COCO's average precision", "pycocotools", extra="voc")
    check_voc(source.data)
    network = source.network
    (train, test), names = annotated_images(source.data, source.index_images())
    for split, images in ((settings.train_split, train), (settings.test_split, test)):
        if not any(count_objects(images.ground_truth, label) for label in range(len(names))):
            raise InputError(f"No image of split {split} has an object that is not difficult; give another split.")
    device = prepare_device(settings.device, settings.thread_count, training=True)
    detector = build_detector(network, len(names), settings).to(device)

    def detections() -> list[Detections]:
        return detect(detector, test, settings, device, progress)

    def score(found: Sequence[Detections]) -> VocDetectResult:
        return detection_result(found, train.ground_truth, test.ground_truth, names)

    fine_tune(
        detector,
        train,
        settings,
        source.folder / RUN_FOLDER,
        inputs={"network": weights_sha256(network.module), "train": train.fingerprint(), "test": test.fingerprint()},
        evaluate=lambda: {"voc_ap_percent": score(detections()).mean_average_precision_percent},
        device=device,
        progress=progress,
    )
    found = detections()
    draw_curve(source.folder / RUN_FOLDER, source.folder / CURVE_FILE, NOTE)
    if settings.pictures:
        draw_boxes(test, found, names, settings.pictures, source.folder / BOXES_FILE, NOTE)
    return score(found)


def detection_result(
    detections: Sequence[Detections], train: Sequence[GroundTruth], test: Sequence[GroundTruth], names: Sequence[str]
) -> VocDetectResult:
    """Score detections on the test images; classes without an object in them are not scored."""
    classes = tuple(
        DetectedClass(
            name=name,
            average_precision_percent=100 * detection_average_precision(detections, test, label),
            train_objects=count_objects(train, label),
            test_objects=count_objects(test, label),
        )
        for label, name in enumerate(names)
        if count_objects(test, label)
    )
    over_overlaps, at_half = coco_average_precision(detections, test, len(names))
    return VocDetectResult(
        mean_average_precision_percent=float(np.mean([each.average_precision_percent for each in classes])),
        coco_average_precision_percent=100 * over_overlaps,
        coco_at_half_percent=100 * at_half,
        classes=classes,
        train_images=len(train),
        test_images=len(test),
    )
