"""Stage ``pretrain``: train a network on fresh random views of every image in every epoch."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from compress_ssl.pipeline.common.device import choose_precision, prepare_device
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.images.data_set import index_data_set
from compress_ssl.pipeline.images.index import ImageIndex
from compress_ssl.pipeline.images.parameters import fresh_parameters
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.rendering import Renderer, RenderJob, render
from compress_ssl.pipeline.networks.architectures import build_backbone
from compress_ssl.pipeline.networks.network import Network, save_network
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.pipeline.pretrain.methods import Method, MoCoV2, SimCLR, Supervised
from compress_ssl.pipeline.pretrain.settings import OPTIONS, PretrainSettings
from compress_ssl.pipeline.training.distributed import (
    check_batch_divides,
    check_gpus_differ,
    local_batch_size,
    process_group,
    rank0_first,
    rank_batches,
)
from compress_ssl.pipeline.training.loop import train
from compress_ssl.pipeline.training.run_folder import check_run_folder, open_runs, run_leases
from compress_ssl.pipeline.training.schedule import epoch_order, images_per_epoch, last_batch_record
from compress_ssl.pipeline.training.task import (
    BatchStream,
    LiveEvaluation,
    ScoreFunction,
    TrainingTask,
    make_score_function,
)


@process_group()
def pretrain(settings: PretrainSettings, progress: Progress, live: LiveEvaluation | None = None) -> Path:
    """Train a network from scratch. Under torchrun every rank calls it.

    Returns:
        model: The network's ``model.safetensors``.

    Raises:
        InputError: If the data, the architecture or a setting cannot be used, or the run's folder is taken.
        RunError: If training fails.
        Stopped: If a signal asked for the end.
    """
    check_batch_divides(settings.batch_size)
    check_run_folder(settings, settings.run)
    device = prepare_device(settings.device, settings.thread_count, training=True)
    check_gpus_differ(device)
    settings = settings.model_copy(update={"precision": choose_precision(settings.precision, device, training=True)})
    default = Preprocessing()
    size = settings.size or default.size
    resize = settings.resize or max(default.resize, size)
    preprocessing = Preprocessing(size=size, resize=resize, squash=bool(settings.squash))
    network = Network(settings.run.name, settings.arch, *build_backbone(settings.arch, settings.seed), preprocessing)
    network.check_size(size)
    index = open_images(settings, progress)

    torch.manual_seed(settings.seed)
    method = build_method(settings, network, index)
    renderer = make_renderer(settings.renderer, device, settings.thread_count)
    score = make_score_function(settings, renderer, progress, live)
    task = PretrainTask(settings, network, method, score, device)
    views = RandomViews(index, settings, renderer, method.views, size)

    with run_leases([settings.run]):
        kept = last_batch_record(settings, views.images_per_epoch)
        open_runs([(settings, settings.run, {"fingerprint": index.fingerprint(), **kept})])
        stream = BatchStream(
            epochs=settings.epochs,
            images_per_epoch=views.images_per_epoch,
            batch_size=settings.batch_size,
            batches=views.batches,
        )
        train([task], stream, f"pretrain {settings.run.name}", progress)
    return settings.run / MODEL_FILE


def open_images(settings: PretrainSettings, progress: Progress) -> ImageIndex:
    """Index the training images, and check that the method can be trained on them.

    Raises:
        InputError: If there are fewer than a batch, or supervised training lacks a label (names the first image
            without one) or a second class.
    """
    with rank0_first():
        index = index_data_set(
            settings.data, [settings.split], settings.run, settings, threads=settings.thread_count, progress=progress
        )[settings.split]
    samples, location = index.samples, index.source.location
    images = np.count_nonzero(samples.good)
    if images < settings.batch_size:
        raise InputError(f"--batch-size {settings.batch_size} exceeds the {images} images of '{location}'; lower it.")
    if settings.method == "supervised":
        unlabelled = np.flatnonzero(samples.good & (samples.label < 0))
        if len(unlabelled):
            raise InputError(
                f"The image '{index.source.describe(samples.sample_path[unlabelled[0]])}' has no label, and --method "
                "supervised needs one for every image; store the images in one folder per class, or give --labels."
            )
        if len(np.unique(samples.label[samples.good])) < 2:
            raise InputError(
                f"All images of '{location}' are of one class, and --method supervised needs two or more; add another "
                "class, or take --method simclr."
            )
    return index


def build_method(settings: PretrainSettings, network: Network, index: ImageIndex) -> Method:
    """Return the method of the settings, initialized from torch's generator."""
    dim, options = network.feature_dim, settings.model_dump(include=OPTIONS[settings.method] | {"precision"})
    match settings.method:
        case "simclr":
            return SimCLR(dim, **options)
        case "moco-v2":
            return MoCoV2(network.module, dim, images=int(np.count_nonzero(index.samples.good)), **options)
        case "supervised":
            return Supervised(dim, classes=len(index.samples.class_names), **options)


class Batch(NamedTuple):
    """B images."""

    views: list[Tensor]  # uint8 (B, S, S, 3) each
    labels: Tensor  # (B,); -1 where an image has none


class RandomViews:
    """V fresh random views of every image in every epoch."""

    def __init__(
        self, index: ImageIndex, settings: PretrainSettings, renderer: Renderer, views: int, size: int
    ) -> None:
        self._index, self._settings, self._renderer = index, settings, renderer
        self._views, self._size = views, size
        self._rows = np.flatnonzero(index.samples.good)
        self.images_per_epoch = images_per_epoch(len(self._rows), settings)

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """Yield this rank's part of each batch of an epoch, from a step on."""
        batch_size = self._settings.batch_size
        order = epoch_order(self._rows, self._settings.seed, epoch)
        order = order[first_step * batch_size : self.images_per_epoch]
        order = np.concatenate(rank_batches(order, batch_size))
        job = self.render_job(epoch, order)
        labels = torch.from_numpy(self._index.samples.label[order]).long().to(self._renderer.device)
        local = local_batch_size(batch_size)
        for batch, views in zip(job.batches(local), render(self._renderer, job, local), strict=True):
            yield Batch(views, labels[batch])

    def render_job(self, epoch: int, rows: npt.NDArray[np.int64]) -> RenderJob:
        """Return the job of rendering the views V e to V e + V - 1 of the run's seed for these rows in epoch e."""
        policy, seed, samples = self._settings.policy, self._settings.seed, self._index.samples
        parameters = [
            fresh_parameters(policy, self._size, seed, self._views * epoch + view, samples.image_size)[rows]
            for view in range(self._views)
        ]
        sizes = (self._size,) * self._views
        return RenderJob.of(self._index.source, samples, rows, parameters=np.stack(parameters, axis=1), sizes=sizes)


class PretrainTask(TrainingTask[Batch]):
    """Train a backbone on a device by the loss of a method."""

    def __init__(
        self,
        settings: PretrainSettings,
        network: Network,
        method: Method,
        score: ScoreFunction | None,
        device: torch.device,
    ) -> None:
        self.run, self.settings = settings.run, settings
        self._network, self._method, self._score = network, method, score
        self.modules = nn.ModuleDict({"backbone": network.module, "method": method})
        self.prepare_modules(device, filter(None, (network.module, method.key_encoder)))

    def loss(self, micro_batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the method's loss on the concatenated views."""
        images = self._network.preprocessing.normalize(torch.cat(micro_batch.views))
        if self.settings.memory_format == "contiguous":
            images = images.contiguous()
        loss: tuple[Tensor, dict[str, Tensor]] = self._method(self._network.module, images, micro_batch.labels)
        return loss

    def after_step(self) -> None:
        """Update the method's queue and key encoder, if it has them."""
        self._method.after_step(self._network.module)

    def evaluate(self) -> Mapping[str, float]:
        """Return the scores of live evaluation, if it was asked for."""
        return {} if self._score is None else self._score(self._network)

    def save_network(self, folder: Path) -> None:
        """Write the backbone."""
        save_network(folder / MODEL_FILE, self._network)
