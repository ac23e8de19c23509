"""The stage: two fresh random views of every image in every epoch, a SimCLR loss, a network at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from pipeline.errors import InputError
from pipeline.images.data_set import index_data_set
from pipeline.images.policies import fresh_parameters
from pipeline.images.rendering import RenderJob, make_renderer, render
from pipeline.machine import autocast, prepare_machine
from pipeline.networks.architectures import build_backbone
from pipeline.networks.network import MODEL_FILE, Network, save_network
from pipeline.networks.preprocessing import Preprocessing
from pipeline.pretrain.simclr import nt_xent_loss, projection_head
from pipeline.training.live import make_score
from pipeline.training.loop import Stream, Training, train
from pipeline.training.run_folder import check_place, open_runs, run_leases
from pipeline.training.schedule import epoch_order

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt
    from torch import Tensor

    from pipeline.images.index import ImageIndex
    from pipeline.pretrain.settings import PretrainSettings
    from pipeline.progress import Progress
    from pipeline.training.live import LiveEvaluation


class TwoViews(NamedTuple):
    """Two views of B images, uint8 (B, S, S, 3) each."""

    first: Tensor
    second: Tensor


def pretrain(settings: PretrainSettings, progress: Progress, live: LiveEvaluation | None = None) -> Path:
    """Train a network without labels.

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
    check_place(settings, settings.run)
    device = prepare_machine(settings.device, settings.thread_count, training=True)
    backbone = build_backbone(settings.arch, settings.seed)
    wanted = Preprocessing()
    size = settings.size or wanted.size
    preprocessing = Preprocessing(size=size, resize=settings.resize or max(wanted.resize, size))
    network = Network(settings.run.name, settings.arch, *backbone, preprocessing)
    network.check_size(size)
    torch.manual_seed(settings.seed)
    head = projection_head(network.feature_dim, settings.projection_dim)
    modules = nn.ModuleDict({"backbone": network.module, "head": head})
    modules.train().to(device)
    if settings.memory_format == "channels_last":
        modules.to(memory_format=torch.channels_last)
    if settings.compile:
        network.module.compile()

    index = index_data_set(
        settings.data, [settings.split], settings.run, settings, threads=settings.thread_count, progress=progress
    )[settings.split]
    rows = np.flatnonzero(index.samples.good)
    steps = len(rows) // settings.batch_size
    if steps == 0:
        raise InputError(
            f"--batch-size {settings.batch_size} is more than the {len(rows)} images of '{index.source.location}'; lower it."
        )
    renderer = make_renderer(settings.renderer, device, settings.thread_count)
    score = make_score(settings, renderer, progress, live)

    def batches(epoch: int, first_step: int) -> Iterator[TwoViews]:
        order = epoch_order(rows, settings.seed, epoch)[first_step * settings.batch_size : steps * settings.batch_size]
        job = _two_views(index, settings, size, epoch, order)
        yield from (TwoViews(*views) for views in render(renderer, job, settings.batch_size))

    def loss(batch: TwoViews) -> tuple[Tensor, dict[str, Tensor]]:
        images = network.preprocessing.normalise(torch.cat(batch))
        if settings.memory_format == "contiguous":
            images = images.contiguous()
        with autocast(device, settings.precision):
            features = network.module(images)
        first, second = head(features.float()).chunk(2)
        return nt_xent_loss(first, second, settings.temperature), {}

    training: Training[TwoViews] = Training(
        run=settings.run,
        settings=settings,
        modules=modules,
        loss=loss,
        save_network=lambda folder: save_network(folder / MODEL_FILE, network),
        measure=None if score is None else lambda: score(network),
    )
    stream = Stream(settings.epochs, steps, settings.batch_size, batches)
    with run_leases([settings.run]):
        open_runs([(settings, settings.run, {"fingerprint": index.fingerprint()})])
        train([training], stream, f"pretrain {settings.run.name}", progress)
    return settings.run / MODEL_FILE


def _two_views(
    index: ImageIndex, settings: PretrainSettings, size: int, epoch: int, order: npt.NDArray[np.int64]
) -> RenderJob:
    """Fresh parameters for two views: views 2e and 2e + 1 of the run's seed."""
    samples = index.samples
    drawn = [
        fresh_parameters(settings.policy, size, settings.seed, 2 * epoch + view, samples.image_size)[order]
        for view in (0, 1)
    ]
    return RenderJob(
        source=index.source,
        paths=[samples.sample_path[row] for row in order],
        content_hash=samples.content_hash[order],
        parameters=np.stack(drawn, axis=1),
        sizes=(size, size),
    )
