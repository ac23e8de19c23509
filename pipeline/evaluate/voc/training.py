"""Fine-tuning a detector, with the training loop of the other stages."""

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

from compress_ssl.pipeline.common.device import autocast, choose_precision
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.run_files import SETTINGS_FILE
from compress_ssl.pipeline.common.tensor_files import safetensors_bytes
from compress_ssl.pipeline.evaluate.settings import VocDetectSettings
from compress_ssl.pipeline.evaluate.voc.detector import set_training
from compress_ssl.pipeline.evaluate.voc.images import AnnotatedImages, Batch, make_target
from compress_ssl.pipeline.training.loop import train
from compress_ssl.pipeline.training.run_folder import open_runs, run_leases
from compress_ssl.pipeline.training.schedule import epoch_order
from compress_ssl.pipeline.training.settings import TrainingSettings
from compress_ssl.pipeline.training.task import BatchStream, TrainingTask
from compress_ssl.storage.places.place import location

Score = Callable[[], Mapping[str, float]]

logger = logging.getLogger(__name__)

DETECTOR_FILE = "detector.safetensors"

SHARED_SETTINGS = {
    *("epochs", "learning_rate", "weight_decay", "milestones", "gamma", "warmup_epochs"),
    *("seed", "device", "threads", "checkpoint_minutes"),
}  # settings of detection that ``TrainingSettings`` has too

DETECTOR_SETTINGS = {"scales", "min_size", "max_size", "anchor_sizes", "regions"}


class DetectionTask(TrainingTask[Batch]):
    """Fine-tune all layers of a detector."""

    out_of_memory_hint = "lower --detector-batch-size, --max-size or --regions"

    def __init__(self, run: Path, settings: TrainingSettings, detector: FasterRCNN, evaluate: Score) -> None:
        self.run, self.settings, self.modules = run, settings, nn.ModuleDict({"detector": detector})
        self._detector, self._evaluate = detector, evaluate
        self._device = next(detector.parameters()).device

    def loss(self, micro_batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the detector's losses over randomly flipped images."""
        flips = torch.rand(len(micro_batch)) < 0.5  # the loop has seeded torch for this step
        targets = [
            make_target(image, truth, flip=bool(flip), device=self._device)
            for (image, truth), flip in zip(micro_batch, flips, strict=True)
        ]
        set_training(self._detector)
        with autocast(self._device, self.settings.precision):
            losses = self._detector([each.image for each in targets], [each.objects for each in targets])
        total = torch.stack([value.float() for value in losses.values()]).sum()
        return total, {name: value.detach() for name, value in losses.items()}

    def before_training(self, epoch: int, step: int) -> Mapping[str, float]:
        """Score the untrained detector, as the first point of the curve."""
        return self._evaluate() if self.settings.live_every and (epoch, step) == (0, 0) else {}

    def evaluate(self) -> Mapping[str, float]:
        """Score the detector as it is now."""
        return self._evaluate()

    def save_network(self, folder: Path) -> None:
        """Write the detector's weights."""
        location(folder / DETECTOR_FILE).write_durably(safetensors_bytes(self._detector.state_dict(), {}))


def fine_tune(
    detector: FasterRCNN,
    images: AnnotatedImages,
    settings: VocDetectSettings,
    run: Path,
    *,
    inputs: Mapping[str, Any],
    evaluate: Score,
    device: torch.device,
    progress: Progress,
) -> None:
    """Train all layers, resuming from the run's checkpoint if it has the same settings and inputs.

    Args:
        run: Folder for checkpoint, metrics and the detector's weights.
        inputs: What else the outcome depends on: the network, the images.
        evaluate: Scores the current detector; called before the first step and every ``score_every`` epochs.

    Raises:
        InputError: If there are fewer images than in a batch, or the run's folder contains something else.
        RunError: If training fails.
        Stopped: If a signal requested it.
    """
    rows = np.arange(len(images.rows))
    images_per_step = settings.detector_batch_size
    steps = len(rows) // images_per_step
    if steps == 0:
        raise InputError(f"--detector-batch-size {images_per_step} exceeds the {len(rows)} training images; lower it.")
    task_settings = TrainingSettings.model_validate(
        {
            **settings.model_dump(include=SHARED_SETTINGS),
            "batch_size": images_per_step,
            "schedule": "step",
            "precision": choose_precision(settings.precision, device, training=True),
            "live_every": settings.score_every,
            "resume": not settings.overwrite,
            "overwrite": settings.overwrite,
        }
    )

    def batches(epoch: int, first_step: int) -> Iterator[Batch]:
        order = epoch_order(rows, settings.seed, epoch)[first_step * images_per_step : steps * images_per_step]
        yield from images.read(order, images_per_step, settings.thread_count)

    task = DetectionTask(run, task_settings, detector, evaluate)
    with run_leases([run]):
        inputs = {**inputs, "detector": settings.model_dump(mode="json", include=DETECTOR_SETTINGS)}
        try:
            open_runs([(task_settings, run, inputs)])
        except InputError as error:
            if settings.overwrite or not (run / SETTINGS_FILE).is_file():
                raise
            # A run with other settings is replaced, as all results are.
            logger.warning("The training starts over, since the existing one cannot be resumed: %s", error)
            open_runs([(task_settings.model_copy(update={"resume": False, "overwrite": True}), run, inputs)])
        stream = BatchStream(
            epochs=settings.epochs,
            images_per_epoch=steps * images_per_step,
            batch_size=images_per_step,
            batches=batches,
        )
        train([task], stream, "fine-tune", progress)
