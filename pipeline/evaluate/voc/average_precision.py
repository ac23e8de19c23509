"""Average precision: VOC2007's by eleven points, for images and for boxes, and COCO's for boxes beside it.

The rules are those of the VOC2007 development kit (``VOCevalcls.m``, ``VOCevaldet.m``), which ``lib/datasets/voc_eval.py`` of
rbgirshick/py-faster-rcnn (45e0da9a) follows too, but for one thing: it compares recall with multiples of 0.1 in floating point,
where a recall of exactly 3, 6 or 7 tenths does not reach its point. Here it does.

Letters: N images, D detections and O objects of an image.
"""

from __future__ import annotations

import contextlib
import io
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from compress_ssl.pipeline.common.errors import require_extra

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

POINTS = 10
"""Recall is looked at in steps of one tenth, from 0 to 1."""


class Objects(NamedTuple):
    """What is on an image."""

    boxes: npt.NDArray[np.floating]
    """(O, 4) xmin, ymin, xmax, ymax in pixels; the pixels of both ends belong to the object."""
    labels: npt.NDArray[np.integer]
    """(O,)"""
    difficult: npt.NDArray[np.bool_]
    """(O,) found or not, these do not count."""


class Detections(NamedTuple):
    """What a detector says of an image."""

    boxes: npt.NDArray[np.floating]
    """(D, 4) as those of objects."""
    labels: npt.NDArray[np.integer]
    """(D,)"""
    scores: npt.NDArray[np.floating]
    """(D,)"""


class CocoAveragePrecision(NamedTuple):
    """Means over the classes, in [0, 1]."""

    over_overlaps: float
    """Over the overlaps 0.5, 0.55, ..., 0.95 too."""
    at_half: float
    """At an overlap of 0.5."""


def eleven_point_average_precision(hits: npt.NDArray[np.bool_], positives: int) -> float:
    """Mean over the recalls 0, 0.1, ..., 1 of the best precision at this recall or a higher one, in [0, 1].

    Parameters
    ----------
    hits : bool array
        Whether each answer, best first, is right.
    positives : int
        How many right answers there are; where there is none the precision is not a number.
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
    """VOC2007's average precision of one class over N images, in [0, 1]; equal scores count in the images' order.

    Parameters
    ----------
    scores : float array of shape (N,)
    present : bool array of shape (N,)
        Images that show the class.
    difficult : bool array of shape (N,)
        Images that show it in difficult objects only; they are left out.
    """
    scores, present = scores[~difficult], present[~difficult]
    return eleven_point_average_precision(present[np.argsort(-scores, kind="stable")], int(present.sum()))


def detection_average_precision(
    detections: Sequence[Detections], objects: Sequence[Objects], label: int, overlap: float = 0.5
) -> float:
    """VOC2007's average precision of one class of boxes over N images, in [0, 1].

    Best first, a detection is right if the object that it overlaps most is overlapped at least by ``overlap`` and has not
    been found yet; it does not count if that object is difficult.
    """
    answers = [
        (score, *answer)
        for detected, there in zip(detections, objects, strict=True)
        for score, answer in _answers(detected, there, label, overlap)
    ]
    positives = sum(int(((each.labels == label) & ~each.difficult).sum()) for each in objects)
    scores, hits, counts = (np.array(column) for column in zip(*answers, strict=True)) if answers else [np.zeros(0)] * 3
    order = np.argsort(-scores, kind="stable")
    order = order[counts[order].astype(bool)]
    return eleven_point_average_precision(hits[order].astype(bool), positives)


def _answers(
    detected: Detections, there: Objects, label: int, overlap: float
) -> Iterator[tuple[float, tuple[bool, bool]]]:
    """Score, rightness, and whether it counts, of each detection of a class in one image; best first."""
    chosen = np.flatnonzero(detected.labels == label)
    chosen = chosen[np.argsort(-detected.scores[chosen], kind="stable")]
    mine = there.labels == label
    boxes, difficult = there.boxes[mine], there.difficult[mine]
    overlaps = box_overlaps(detected.boxes[chosen], boxes)
    found = np.zeros(len(boxes), bool)
    for detection, row in zip(chosen, overlaps, strict=True):
        best = int(row.argmax()) if len(boxes) else -1
        is_object = best >= 0 and row[best] >= overlap
        is_hit = is_object and not difficult[best] and not found[best]
        if is_hit:
            found[best] = True
        yield float(detected.scores[detection]), (is_hit, not (is_object and difficult[best]))


def box_overlaps(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Intersection over union (A, B) of boxes (A, 4) and (B, 4); both ends of a box belong to it."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.maximum(high - low + 1, 0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1) for boxes in (first, second)]
    overlaps: npt.NDArray[np.floating] = shared / (areas[0][:, None] + areas[1][None, :] - shared)
    return overlaps


def coco_average_precision(
    detections: Sequence[Detections], objects: Sequence[Objects], classes: int
) -> CocoAveragePrecision:
    """COCO's average precision (Lin et al. 2014), by pycocotools: difficult objects are what COCO calls crowds."""
    require_extra("COCO's average precision", "pycocotools", extra="voc")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    answers = [
        {"image_id": image, "category_id": int(label), "bbox": _corner_and_size(box), "score": float(score)}
        for image, detected in enumerate(detections)
        for box, label, score in zip(*detected, strict=True)
    ]
    if not answers:
        return CocoAveragePrecision(0.0, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        truth = COCO()
        truth.dataset = _coco_data_set(objects, classes)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(answers), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return CocoAveragePrecision(float(evaluation.stats[0]), float(evaluation.stats[1]))


def _coco_data_set(objects: Sequence[Objects], classes: int) -> dict[str, Any]:
    boxes = [(image, *each) for image, there in enumerate(objects) for each in zip(*there, strict=True)]
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": int(label),
            "bbox": (corner_and_size := _corner_and_size(box)),
            "area": corner_and_size[2] * corner_and_size[3],
            "iscrowd": int(difficult),
        }
        for number, (image, box, label, difficult) in enumerate(boxes, 1)  # 0 is pycocotools' word for no object
    ]
    return {
        "info": {},
        "images": [{"id": image} for image in range(len(objects))],
        "categories": [{"id": label} for label in range(classes)],
        "annotations": annotations,
    }


def _corner_and_size(box: npt.NDArray[np.floating]) -> list[float]:
    """COCO's form of a box: its first corner, counted from 0, and its sides."""
    xmin, ymin, xmax, ymax = box.tolist()
    return [xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1]
