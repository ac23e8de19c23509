"""Average precision: VOC2007's eleven-point rule, for images and for boxes, and COCO's for boxes.

The rules are those of the VOC2007 development kit (``VOCevalcls.m``, ``VOCevaldet.m``), also implemented by
``lib/datasets/voc_eval.py`` of rbgirshick/py-faster-rcnn (45e0da9a), with two differences: that compares recall with
multiples of 0.1 in floating point, where a recall of exactly 3, 6 or 7 tenths does not reach its point, and asks for an
overlap of more than 0.5. Here, as in the kit, the recall does reach it, and an overlap of exactly 0.5 is enough.

Letters: N images, D detections and O objects of an image.
"""

import contextlib
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

POINTS = 10  # precision is averaged over recalls from 0 to 1 in steps of one tenth


class GroundTruth(NamedTuple):
    """The annotated objects of an image."""

    boxes: npt.NDArray[np.floating]
    """(O, 4) xmin, ymin, xmax, ymax in pixels counted from 1; the pixels at both ends belong to the object."""
    labels: npt.NDArray[np.integer]  # (O,)
    difficult: npt.NDArray[np.bool_]  # (O,) true for objects that count neither as found nor as missed


class Detections(NamedTuple):
    """The output of a detector for an image."""

    boxes: npt.NDArray[np.floating]  # (D, 4) in the coordinates of ``GroundTruth``
    labels: npt.NDArray[np.integer]  # (D,)
    scores: npt.NDArray[np.floating]  # (D,)


def eleven_point_average_precision(hits: npt.NDArray[np.bool_], positives: int) -> float:
    """Return the mean, over recalls 0, 0.1, ..., 1, of the best precision at this or a higher recall, in [0, 1].

    ``hits`` has the correctness of each prediction, best first. Without positives the result is NaN.
    """
    if positives == 0:
        return math.nan
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    reached = [precision[POINTS * found >= point * positives] for point in range(POINTS + 1)]
    return sum(float(each.max(initial=0.0)) for each in reached) / (POINTS + 1)


def classification_average_precision(
    scores: npt.NDArray[np.floating], present: npt.NDArray[np.bool_], difficult: npt.NDArray[np.bool_]
) -> float:
    """Return VOC2007's average precision of one class over N images, in [0, 1]; ties are ranked in the images' order.

    ``present`` (N,) marks images of the class, ``difficult`` (N,) those with difficult objects of it only, which are
    left out.
    """
    scores, present = scores[~difficult], present[~difficult]
    return eleven_point_average_precision(present[np.argsort(-scores, kind="stable")], int(present.sum()))


def detection_average_precision(
    detections: Sequence[Detections], ground_truth: Sequence[GroundTruth], label: int, overlap: float = 0.5
) -> float:
    """Return VOC2007's average precision of one class of boxes over N images, in [0, 1].

    Best first, a detection is correct if the object it overlaps most has an IoU of at least ``overlap`` with it and has
    not been found yet; it is ignored if that object is difficult.
    """
    scores, hits = [], []
    for detected, truth in zip(detections, ground_truth, strict=True):
        chosen = np.flatnonzero(detected.labels == label)
        chosen = chosen[np.argsort(-detected.scores[chosen], kind="stable")]
        of_class = truth.labels == label
        boxes, difficult = truth.boxes[of_class], truth.difficult[of_class]
        found = np.zeros(len(boxes), bool)
        for detection, row in zip(chosen, box_overlaps(detected.boxes[chosen], boxes), strict=True):
            best = int(row.argmax()) if len(boxes) else -1
            is_object = best >= 0 and row[best] >= overlap
            if is_object and difficult[best]:
                continue
            scores.append(float(detected.scores[detection]))
            hits.append(is_object and not found[best])
            if is_object:
                found[best] = True
    order = np.argsort(-np.array(scores), kind="stable")
    return eleven_point_average_precision(np.array(hits, bool)[order], count_objects(ground_truth, label))


def count_objects(ground_truth: Sequence[GroundTruth], label: int) -> int:
    """Count the objects of a class that are not difficult."""
    return sum(int(((truth.labels == label) & ~truth.difficult).sum()) for truth in ground_truth)


def box_overlaps(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return the IoU (A, B) of boxes (A, 4) and (B, 4), whose both ends belong to them."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.maximum(high - low + 1, 0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1) for boxes in (first, second)]
    overlaps: npt.NDArray[np.floating] = shared / (areas[0][:, None] + areas[1][None, :] - shared)
    return overlaps


def coco_average_precision(
    detections: Sequence[Detections], ground_truth: Sequence[GroundTruth], classes: int
) -> tuple[float, float]:
    """Return COCO's average precision (Lin et al. 2014) by pycocotools; difficult objects are passed as crowds.

    Returns:
        over_overlaps (float): Mean over the classes and over the IoU thresholds 0.5, 0.55, ..., 0.95, in [0, 1].
        at_half (float): Mean over the classes at an IoU threshold of 0.5.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results = [
        {"image_id": image, "category_id": int(label), "bbox": _corner_and_size(box), "score": float(score)}
        for image, detected in enumerate(detections)
        for box, label, score in zip(*detected, strict=True)
    ]
    if not results:
        return 0.0, 0.0
    objects = [(image, *each) for image, truth in enumerate(ground_truth) for each in zip(*truth, strict=True)]
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": int(label),
            "bbox": (corner_and_size := _corner_and_size(box)),
            "area": corner_and_size[2] * corner_and_size[3],
            "iscrowd": int(difficult),
        }
        for number, (image, box, label, difficult) in enumerate(objects, 1)  # pycocotools: an id of 0 means no object
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(ground_truth))],
            "categories": [{"id": label} for label in range(classes)],
            "annotations": annotations,
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def _corner_and_size(box: npt.NDArray[np.floating]) -> list[float]:
    """Return a box in COCO's format: first corner counted from 0, width, height."""
    xmin, ymin, xmax, ymax = box.tolist()
    return [xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1]
