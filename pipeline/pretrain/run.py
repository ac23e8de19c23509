"""The stage: fresh random views of every image in every epoch, the loss of a method, a network at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from compress_ssl.pipeline.common.device import prepare_device
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.images.data_set import index_data_set
from compress_ssl.pipeline.images.policies import fresh_parameters
from compress_ssl.pipeline.images.renderers.make import make_renderer
from compress_ssl.pipeline.images.rendering import RenderJob, render
from compress_ssl.pipeline.networks.architectures import build_backbone
from compress_ssl.pipeline.networks.network import Network, save_network
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.pipeline.pretrain.moco import MoCoV2
from compress_ssl.pipeline.pretrain.simclr import SimCLR
from compress_ssl.pipeline.pretrain.supervised import Supervised
from compress_ssl.pipeline.training.distributed import (
    check_batch_divides,
    convert_sync_batchnorm,
    local_batch_size,
    rank0_first,
    rank_indices,
)
from compress_ssl.pipeline.training.live import make_score_function
from compress_ssl.pipeline.training.loop import train
from compress_ssl.pipeline.training.process_group import process_group
from compress_ssl.pipeline.training.run_folder import check_run_folder, open_runs, run_leases
from compress_ssl.pipeline.training.schedule import epoch_order
from compress_ssl.pipeline.training.task import BatchStream, TrainingTask

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt
    from torch import Tensor

    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.images.index import ImageIndex
    from compress_ssl.pipeline.pretrain.method import Method
    from compress_ssl.pipeline.pretrain.settings import PretrainSettings
    from compress_ssl.pipeline.training.live import LiveEvaluation, ScoreFunction


METHODS: dict[str, type[Method]] = {"simclr": SimCLR, "moco-v2": MoCoV2, "supervised": Supervised}


class Batch(NamedTuple):
    """B images."""

    views: list[Tensor]
    """uint8 (B, S, S, 3) each."""
    labels: Tensor
    """(B,); -1 where there is none."""


class PretrainTask(TrainingTask[Batch]):
    """Train a backbone by the loss of a method."""

    def __init__(
        self,
        settings: PretrainSettings,
        network: Network,
        method: Method,
        modules: nn.ModuleDict,
        score: ScoreFunction | None,
    ) -> None:
        self.run, self.settings, self.modules = settings.run, settings, modules
        self._network, self._method, self._score = network, method, score

    def loss(self, part: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the method's loss on the concatenated views."""
        images = self._network.preprocessing.normalize(torch.cat(part.views))
        if self.settings.memory_format == "contiguous":
            images = images.contiguous()
        loss: tuple[Tensor, dict[str, Tensor]] = self._method(self._network.module, images, part.labels)
        return loss

    def after_step(self) -> None:
        """Update the method's queue and key encoder, if it has them."""
        self._method.after_step(self._network.module)

    def evaluate(self) -> Mapping[str, float]:
        """Score the backbone by live evaluation, if it was asked for."""
        return {} if self._score is None else self._score(self._network)

    def save_network(self, folder: Path) -> None:
        """Write the backbone."""
        save_network(folder / MODEL_FILE, self._network)


@process_group()
def pretrain(settings: PretrainSettings, progress: Progress, live: LiveEvaluation | None = None) -> Path:
    """Train a network from nothing. Under torchrun all processes call it, and share every batch.

    Returns
    -------
    model : Path
        The network's ``model.safetensors``.

    Raises
    ------
    InputError
        If the data, the architecture or a setting cannot be used, or the run's folder is taken.
    RunError
        If training fails.
    Stopped
        If a signal asked for the end.
    """
    check_batch_divides(settings.batch_size)
    check_run_folder(settings, settings.run)
    device = prepare_device(settings.device, settings.thread_count, training=True)
    backbone = build_backbone(settings.arch, settings.seed)
    wanted = Preprocessing()
    size = settings.size or wanted.size
    preprocessing = Preprocessing(size=size, resize=settings.resize or max(wanted.resize, size))
    network = Network(settings.run.name, settings.arch, *backbone, preprocessing)
    network.check_size(size)

    with rank0_first():
        index = index_data_set(
            settings.data, [settings.split], settings.run, settings, threads=settings.thread_count, progress=progress
        )[settings.split]
    rows = np.flatnonzero(index.samples.good)
    steps = len(rows) // settings.batch_size
    if steps == 0:
        raise InputError(
            f"--batch-size {settings.batch_size} is more than the {len(rows)} images of '{index.source.location}'; lower it."
        )
    torch.manual_seed(settings.seed)
    method = METHODS[settings.method](network.module, network.feature_dim, index, settings)
    modules = nn.ModuleDict({"backbone": network.module, "method": method})
    if settings.sync_bn:
        convert_sync_batchnorm(modules, device)
    modules.train().to(device)
    if settings.memory_format == "channels_last":
        modules.to(memory_format=torch.channels_last)
    if settings.compile:
        for module in filter(None, (network.module, method.key_encoder)):
            module.compile()
    renderer = make_renderer(settings.renderer, device, settings.thread_count)
    score = make_score_function(settings, renderer, progress, live)

    def batches(epoch: int, first_step: int) -> Iterator[Batch]:
        order = epoch_order(rows, settings.seed, epoch)[first_step * settings.batch_size : steps * settings.batch_size]
        order = rank_indices(order, settings.batch_size)
        job = _random_views(index, settings, method.views, size, epoch, order)
        labels = torch.from_numpy(index.samples.label[order]).long().to(device)
        batch_size = local_batch_size(settings.batch_size)
        for here, views in zip(job.batches(batch_size), render(renderer, job, batch_size), strict=True):
            yield Batch(views, labels[here])

    task = PretrainTask(settings, network, method, modules, score)
    stream = BatchStream(settings.epochs, steps, settings.batch_size, batches)
    with run_leases([settings.run]):
        open_runs([(settings, settings.run, {"fingerprint": index.fingerprint()})])
        train([task], stream, f"pretrain {settings.run.name}", progress)
    return settings.run / MODEL_FILE


def _random_views(
    index: ImageIndex, settings: PretrainSettings, views: int, size: int, epoch: int, order: npt.NDArray[np.int64]
) -> RenderJob:
    """Fresh parameters for V views of the images in this order: views V e to V e + V - 1 of the run's seed."""
    samples = index.samples
    drawn = [
        fresh_parameters(settings.policy, size, settings.seed, views * epoch + view, samples.image_size)[order]
        for view in range(views)
    ]
    parameters, sizes = np.stack(drawn, axis=1), (size,) * views
    return RenderJob.of(index.source, samples, order, parameters=parameters, sizes=sizes)
