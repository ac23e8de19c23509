"""Input and output of a detector: whole images of a split with their ground truth, and detections on them.

Letters: H, W height and width of an image in pixels, O objects of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from compress_ssl.pipeline.common.device import autocast, choose_precision
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.evaluate.settings import VocDetectSettings
from compress_ssl.pipeline.evaluate.voc.average_precision import Detections, GroundTruth
from compress_ssl.pipeline.images.decode import decode
from compress_ssl.pipeline.images.index import ImageIndex
from compress_ssl.pipeline.images.rendering import RenderJob, read_images
from compress_ssl.pipeline.images.sources.voc import find_classes, read_annotations

Batch = list[tuple[Tensor, GroundTruth]]  # Images, uint8 (3, H, W), with their ground truth


@dataclass(frozen=True)
class AnnotatedImages:
    """The images of a split and their ground truth."""

    index: ImageIndex
    rows: npt.NDArray[np.int64]  # rows in the index of the N images that can be decoded
    ground_truth: list[GroundTruth]  # of each of them

    def fingerprint(self) -> str:
        """Return the XXH3-128 of the images' own fingerprint and all boxes, in hexadecimal."""
        digest = xxhash.xxh3_128(self.index.fingerprint().encode())
        for truth in self.ground_truth:
            digest.update(np.column_stack(truth).astype("<f8").tobytes())
        return digest.hexdigest()

    def read(self, order: npt.NDArray[np.integer], batch_size: int, threads: int) -> Iterator[Batch]:
        """Yield batches of the N images in this order, with their ground truth."""
        samples, rows = self.index.samples, self.rows[order]
        no_views = np.empty((len(rows), 0, 0), np.float32)  # whole images
        job = RenderJob.of(self.index.source, samples, rows, parameters=no_views, sizes=())
        numbers = iter(order)
        for contents in read_images(map(job.part, job.batches(batch_size)), threads):
            pixels = [torch.from_numpy(np.array(decode(content))).permute(2, 0, 1) for content in contents]
            yield [(image, self.ground_truth[next(numbers)]) for image in pixels]


class Target(NamedTuple):
    """Training input of a detector."""

    image: Tensor  # float32 (3, H, W) in [0, 1]
    objects: dict[str, Tensor]
    """``boxes`` (O, 4) in pixels from 0, from the first edge to the last; ``labels`` (O,) from 1."""


def annotated_images(data: Path, indexes: Sequence[ImageIndex]) -> tuple[list[AnnotatedImages], tuple[str, ...]]:
    """Read the ground truth of some splits; class numbers are shared by all of them.

    Raises:
        InputError: If an annotation cannot be used.
    """
    rows = [np.flatnonzero(index.samples.good) for index in indexes]
    annotations = [
        read_annotations(data, [index.samples.sample_path[row] for row in good], index.samples.image_size[good])
        for index, good in zip(indexes, rows, strict=True)
    ]
    names = find_classes(each for split in annotations for each in split)
    ground_truth = [
        [
            GroundTruth(each.boxes, np.array([names.index(name) for name in each.classes], np.int64), each.difficult)
            for each in split
        ]
        for split in annotations
    ]
    return [AnnotatedImages(*each) for each in zip(indexes, rows, ground_truth, strict=True)], names


def make_target(image: Tensor, truth: GroundTruth, *, flip: bool, device: torch.device) -> Target:
    """Return an image or its mirror image, and its objects without difficult ones."""
    boxes = torch.from_numpy(truth.boxes[~truth.difficult].astype(np.float32))
    boxes[:, :2] -= 1  # pixel 1 starts at edge 0, and pixel n ends at edge n
    if flip:
        image = image.flip(2)
        boxes[:, [0, 2]] = image.shape[2] - boxes[:, [2, 0]]
    labels = torch.from_numpy(truth.labels[~truth.difficult]) + 1
    found = {"boxes": boxes.to(device), "labels": labels.to(device)}
    return Target(image.to(device).float() / 255, found)


def detect(
    detector: FasterRCNN, images: AnnotatedImages, settings: VocDetectSettings, device: torch.device, progress: Progress
) -> list[Detections]:
    """Run the detector on all images; the detections of each are sorted, best first."""
    detector.eval()
    detections = []
    precision = choose_precision(settings.precision, device)
    with progress.track("detect", len(images.rows)) as advance, torch.inference_mode():
        for batch in images.read(np.arange(len(images.rows)), settings.detector_batch_size, settings.thread_count):
            with autocast(device, precision):
                outputs = detector([image.to(device).float() / 255 for image, _ in batch])
            for output in outputs:
                boxes = output["boxes"].double().cpu().numpy()
                boxes[:, :2] += 1
                labels, scores = output["labels"].cpu().numpy() - 1, output["scores"].double().cpu().numpy()
                detections.append(Detections(boxes, labels, scores))
            advance(len(batch))
    return detections
