"""Average precision: by hand, against a slow implementation in exact fractions, and what must not count."""

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from compress_ssl.pipeline.evaluate.voc.average_precision import (
    Detections,
    GroundTruth,
    box_overlaps,
    classification_average_precision,
    coco_average_precision,
    detection_average_precision,
    eleven_point_average_precision,
)

Floats = npt.NDArray[np.float64]


def objects(*boxes: tuple[float, float, float, float], label: int = 0, difficult: bool = False) -> GroundTruth:
    return GroundTruth(
        np.array(boxes, float).reshape(-1, 4), np.full(len(boxes), label), np.full(len(boxes), difficult)
    )


def detections(*found: tuple[float, tuple[float, float, float, float]], label: int = 0) -> Detections:
    boxes = np.array([box for _, box in found], float).reshape(-1, 4)
    return Detections(boxes, np.full(len(found), label), np.array([score for score, _ in found]))


def test_eleven_points_by_hand() -> None:
    # Right, wrong, right, wrong, wrong, right; four right answers exist. Precision and recall after each:
    #   1/1 at 0.25, 1/2, 2/3 at 0.5, 2/4, 2/5, 3/6 at 0.75; nothing at 1.
    # Points 0, 0.1, 0.2: 1. Points 0.3, 0.4, 0.5: 2/3. Points 0.6, 0.7: 1/2. Points 0.8, 0.9, 1: 0.
    hits = np.array([True, False, True, False, False, True])
    assert eleven_point_average_precision(hits, 4) == pytest.approx((3 * 1 + 3 * 2 / 3 + 2 / 2) / 11, abs=1e-12)


def test_recall_of_just_a_point_reaches_it() -> None:
    # In floating point 3 * 0.1 is more than 3 / 10: the point would be missed.
    for right, of in ((1, 10), (3, 10), (6, 10), (7, 10), (10, 10), (3, 30), (21, 30)):
        assert eleven_point_average_precision(np.ones(right, bool), of) == pytest.approx((10 * right // of + 1) / 11)


def test_nothing_found_is_zero_and_nothing_to_find_is_not_a_number() -> None:
    assert eleven_point_average_precision(np.zeros(0, bool), 3) == 0
    assert eleven_point_average_precision(np.zeros(5, bool), 3) == 0
    assert math.isnan(eleven_point_average_precision(np.zeros(5, bool), 0))


def test_difficult_images_do_not_count() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    present, difficult = np.array([False, True, False, True]), np.array([True, False, False, False])
    # Without the first: right, wrong, right of two: 1 up to a recall of 0.5, then 2/3.
    assert classification_average_precision(scores, present, difficult) == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_equal_scores_count_in_the_order_of_the_images() -> None:
    nobody = np.zeros(2, bool)
    for present, expected in (([True, False], 1.0), ([False, True], 0.5)):
        assert classification_average_precision(np.zeros(2), np.array(present), nobody) == pytest.approx(expected)


def test_overlap_counts_the_pixels_of_both_ends() -> None:
    # 10 x 10 pixels each, 5 x 10 in common: 50 of 150; without the + 1 it would be 4 x 9 of 126.
    assert box_overlaps(np.array([[1, 1, 10, 10.0]]), np.array([[6, 1, 15, 10.0]])) == pytest.approx(50 / 150)
    assert box_overlaps(np.array([[1, 1, 10, 10.0]]), np.array([[11, 1, 20, 10.0]])) == 0


def test_detections_by_hand() -> None:
    there = [objects((1, 1, 10, 10), (21, 1, 30, 10)), objects((1, 1, 10, 10))]
    found = [
        # Half of the first object: an overlap of just 0.5 counts. Then the first again, exactly: it has been found.
        detections((0.9, (1, 1, 10, 5)), (0.8, (1, 1, 10, 10)), (0.3, (21, 1, 30, 10))),
        detections((0.7, (40, 1, 50, 10)), (0.6, (1, 1, 10, 10))),
    ]
    # By score: right, wrong (twice), wrong (nothing there), right, right; of three: 1/1 at 1/3, 2/4 at 2/3, 3/5 at 1.
    expected = (4 * 1 + 7 * 3 / 5) / 11
    assert detection_average_precision(found, there, 0) == pytest.approx(expected, abs=1e-12)


def test_difficult_objects_count_neither_found_nor_missed_nor_twice() -> None:
    hard = objects((21, 1, 30, 10), difficult=True)
    both = [GroundTruth(*(np.concatenate(pair) for pair in zip(objects((1, 1, 10, 10)), hard, strict=True)))]
    box = (21, 1, 30, 10)
    found = [detections((0.9, box), (0.8, box), (0.7, (1, 1, 10, 10)))]
    assert detection_average_precision(found, both, 0) == 1
    assert math.isnan(detection_average_precision(found, [hard], 0))


def test_other_classes_and_images_do_not_matter() -> None:
    there = [objects((1, 1, 10, 10)), objects((1, 1, 10, 10), label=1)]
    found = [detections((0.9, (1, 1, 10, 10)), label=1), detections((0.8, (1, 1, 10, 10)))]
    assert detection_average_precision(found, there, 0) == 0
    assert detection_average_precision(found[::-1], there, 0) == 1


def slow_average_precision(found: list[Detections], there: list[GroundTruth], label: int, overlap: Fraction) -> float:
    """The development kit's loop, box by box, in exact fractions."""
    ranked = sorted(
        ((-score, image, row) for image, each in enumerate(found) for row, score in enumerate(each.scores)
         if each.labels[row] == label)
    )  # fmt: skip
    taken: set[tuple[int, int]] = set()
    curve, right, wrong = [], 0, 0
    positives = sum(
        1
        for each in there
        for kind, hard in zip(each.labels, each.difficult, strict=True)
        if kind == label and not hard
    )
    for _, image, row in ranked:
        box = [Fraction(value) for value in found[image].boxes[row].tolist()]
        best, best_object = Fraction(-1), -1
        for number, kind in enumerate(there[image].labels):
            if kind != label:
                continue
            other = [Fraction(value) for value in there[image].boxes[number].tolist()]
            width = min(box[2], other[2]) - max(box[0], other[0]) + 1
            height = min(box[3], other[3]) - max(box[1], other[1]) + 1
            if width <= 0 or height <= 0:
                continue
            areas = [(each[2] - each[0] + 1) * (each[3] - each[1] + 1) for each in (box, other)]
            shared = width * height / (sum(areas) - width * height)
            if shared > best:
                best, best_object = shared, number
        if best >= overlap and there[image].difficult[best_object]:
            continue
        if best >= overlap and (image, best_object) not in taken:
            taken.add((image, best_object))
            right += 1
        else:
            wrong += 1
        curve.append((Fraction(right, positives), Fraction(right, right + wrong)))
    points = [max((precision for recall, precision in curve if recall >= Fraction(point, 10)), default=Fraction(0))
              for point in range(11)]  # fmt: skip
    return float(sum(points) / 11)


def random_boxes(generator: np.random.Generator, count: int) -> Floats:
    corner = generator.integers(1, 30, (count, 2))
    return np.concatenate([corner, corner + generator.integers(3, 25, (count, 2))], axis=1).astype(float)


@pytest.mark.parametrize("seed", range(12))
def test_random_detections_score_as_in_a_slow_implementation_in_fractions(seed: int) -> None:
    generator = np.random.default_rng(seed)
    there, found = [], []
    for _ in range(12):
        boxes = random_boxes(generator, int(generator.integers(0, 6)))
        there.append(GroundTruth(boxes, generator.integers(0, 3, len(boxes)), generator.random(len(boxes)) < 0.2))
        near = boxes + generator.integers(-2, 3, boxes.shape) * [1, 1, 0, 0]
        seen = np.concatenate([near, boxes[: len(boxes) // 2], random_boxes(generator, 4)])
        scores = generator.permutation(1000)[: len(seen)] / 1000 + len(found) / 1e6  # no two the same
        labels = np.concatenate([there[-1].labels, generator.integers(0, 3, len(seen) - len(boxes))])
        found.append(Detections(seen, labels, scores))
    for label in range(3):
        for overlap in (Fraction(1, 2), Fraction(7, 10)):
            ours = detection_average_precision(found, there, label, float(overlap))
            slow = slow_average_precision(found, there, label, overlap)
            assert 0 < slow < 1
            assert ours == pytest.approx(slow, abs=1e-12)


def test_coco_by_hand() -> None:
    # 100 pixels; 72 of them found and nothing else: overlaps 0.5, 0.55, 0.6, 0.65, 0.7 of ten are reached.
    there = [objects((1, 1, 10, 10))]
    over_overlaps, at_half = coco_average_precision([detections((0.9, (1, 1, 9, 8)))], there, 1)
    assert over_overlaps == pytest.approx(0.5)
    assert at_half == pytest.approx(1.0)
    assert coco_average_precision([detections()], there, 1) == (0, 0)


def test_coco_leaves_difficult_objects_out_and_averages_over_classes() -> None:
    hard = objects((21, 1, 30, 10), difficult=True)
    both = GroundTruth(*(np.concatenate(pair) for pair in zip(objects((1, 1, 10, 10)), hard, strict=True)))
    found = [detections((0.9, (21, 1, 30, 10)), (0.7, (1, 1, 10, 10))), detections()]
    assert coco_average_precision(found, [both, objects()], 1)[0] == pytest.approx(1.0)
    other = objects((1, 1, 10, 10), label=1)
    assert coco_average_precision(found, [both, other], 2)[0] == pytest.approx(0.5)


def test_coco_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    coco_average_precision([detections((0.9, (1, 1, 9, 8)))], [objects((1, 1, 10, 10))], 1)
    assert capsys.readouterr() == ("", "")
