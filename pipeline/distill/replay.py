"""Batches of images with the teachers' embeddings: views replayed from the store, or fresh ones.

A replayed view is rendered again from its stored augmentation parameters.

Letters: N samples, B batch, D the teacher's dimension, S side in pixels; G x G patches of K components, C channels.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compress_ssl.pipeline.common.device import to_device
from compress_ssl.pipeline.common.rows import evenly_spaced
from compress_ssl.pipeline.distill.teacher_views import TeacherView, TeacherViews, ViewSchedule
from compress_ssl.pipeline.images.parameters import fresh_parameters, resized_parameters
from compress_ssl.pipeline.images.policies import Policy
from compress_ssl.pipeline.images.rendering import Renderer, RenderJob, render_batches
from compress_ssl.pipeline.images.sources.source import ImageSource
from compress_ssl.pipeline.training.distributed import local_batch_size, rank_batches
from compress_ssl.pipeline.training.schedule import epoch_order
from compress_ssl.storage import Split
from compress_ssl.storage.parameters import decoded_size
from compress_ssl.storage.schema import EVALUATION_VIEW

FRESH_VIEWS = 2**32  # view number of the first epoch's fresh views: no view of a store has it
PATCH_SAMPLE = 1000  # images whose patches give a scale
PREFILL_EPOCHS = 2**32  # epoch number of the first order in which images prefill the banks: no training reaches it


class ViewSegment(NamedTuple):
    """Consecutive images of an epoch's order, and the view they are seen in."""

    view: int
    rows: npt.NDArray[np.int64]


class ReplayBatch(NamedTuple):
    """A batch of images as the students see them, with the teachers' embeddings."""

    pixels: dict[int, Tensor]  # uint8 (B, S, S, 3), by side S
    teacher_embeddings: tuple[Tensor, ...]  # (B, D) float32 of each teacher, as in its store
    rows: Tensor  # (B,) int64 rows of the split
    teacher_patches: tuple[Tensor | None, ...]  # (B, G * G, K) float32 of each teacher whose patches are learnt


@dataclass(frozen=True)
class Replay:
    """The images of a split in each epoch's order and view; a pure function of its fields."""

    split: Split  # of the first teacher's store, which decides the images and the views
    source: ImageSource
    renderer: Renderer
    teachers: tuple[TeacherViews, ...]  # indexed by the rows of ``split``
    sizes: tuple[int, ...]  # sides to render, one per input size of the students
    images_per_epoch: int
    batch_size: int  # over all ranks; the last batch of an epoch may be smaller
    seed: int
    schedule: ViewSchedule
    policy: Policy | None  # of fresh views; None to replay the store's

    def batches(self, epoch: int, first_step: int) -> Iterator[ReplayBatch]:
        """Yield this rank's part of each batch of an epoch, from a step on."""
        views = [teacher.view_of_epoch(epoch) for teacher in self.teachers]
        yield from self._render(views, self._order(epoch)[first_step * self.batch_size :], FRESH_VIEWS + epoch)

    def before(self, epoch: int, step: int, count: int) -> list[ViewSegment]:
        """Return the last ``count`` images seen before a step, or all if there were fewer; oldest first."""
        segments: list[ViewSegment] = []
        end = step * self.batch_size
        while count > 0 and epoch >= 0:
            rows = self._order(epoch)[max(0, end - count) : end]
            if len(rows):  # each segment reads its view
                segments.append(ViewSegment(self.schedule.view(epoch), rows))
            count -= len(rows)
            epoch, end = epoch - 1, self.images_per_epoch
        return segments[::-1]

    def to_prefill(self, count: int) -> list[ViewSegment]:
        """Return at least ``count`` images to prefill a bank with before the first step, in batches of whole epochs."""
        segments: list[ViewSegment] = []
        number = 0
        while count > 0:
            rows = self._order(PREFILL_EPOCHS + number)[: -(-count // self.batch_size) * self.batch_size]
            segments.append(ViewSegment(self.schedule.view(number), rows))
            count -= len(rows)
            number += 1
        return segments

    def embeddings(self, teacher: int, segments: list[ViewSegment]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one teacher's embeddings (B, D) and their rows (B,), batch by batch, as in ``ReplayBatch``."""
        for number, order in segments:
            with self.teachers[teacher].reading(number) as view:
                for start in range(0, len(order), self.batch_size):
                    rows = order[start : start + self.batch_size]
                    yield (
                        view.gather(rows, self.renderer.device),
                        to_device(torch.from_numpy(rows), self.renderer.device),
                    )

    def all_embeddings(self, teacher: int) -> tuple[Tensor, Tensor]:
        """Return one teacher's embeddings of view 0 of all good images, and their rows; on the CPU."""
        rows = np.flatnonzero(self.split.samples.good)
        with self.teachers[teacher].reading(EVALUATION_VIEW) as view:
            return view.gather(rows, torch.device("cpu")), torch.from_numpy(rows)

    def patch_basis(self, teacher: int) -> tuple[Tensor, Tensor]:
        """Return the mean (C,) and the basis (K, C) of one teacher's patches; on the CPU."""
        return self.teachers[teacher].patch_basis

    def patch_sample(self, teacher: int) -> Tensor:
        """Return patches (n, G * G, K) of some images, evenly spaced, in the first epoch's view; on the CPU."""
        rows = evenly_spaced(np.flatnonzero(self.split.samples.good), PATCH_SAMPLE)
        patches = self.teachers[teacher].view_of_epoch(0).gather_patches(rows, torch.device("cpu"))
        assert patches is not None
        return patches

    def images(self, segments: list[ViewSegment]) -> Iterator[ReplayBatch]:
        """Yield this rank's part of each batch of some segments, with the images."""
        for number, (view, rows) in enumerate(segments):
            with contextlib.ExitStack() as held:
                views = [held.enter_context(teacher.reading(view)) for teacher in self.teachers]
                yield from self._render(views, rows, FRESH_VIEWS + PREFILL_EPOCHS + number)

    def waits(self) -> dict[str, float]:
        """Return the seconds waited for views of all teachers since the last call."""
        return {"teacher_wait_seconds": sum(teacher.waited() for teacher in self.teachers)}

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        good = np.flatnonzero(self.split.samples.good)
        return epoch_order(good, self.seed, epoch)[: self.images_per_epoch]

    def _render(
        self, views: Sequence[TeacherView], rows: npt.NDArray[np.int64], fresh_view: int
    ) -> Iterator[ReplayBatch]:
        batches, batch_size = rank_batches(rows, self.batch_size), local_batch_size(self.batch_size)
        samples = self.split.samples
        description = self.split.views[views[0].number]
        size = int(description["size"])
        if self.policy is None:
            parameters = views[0].augmentation
        else:
            decoded = decoded_size(samples.image_size, description)
            parameters = fresh_parameters(self.policy, size, self.seed, fresh_view, decoded)

        def resized(chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
            return np.stack([resized_parameters(parameters[chosen], size, side) for side in self.sizes], axis=1)

        def job(chosen: npt.NDArray[np.int64]) -> RenderJob:
            return RenderJob.of(
                self.source,
                samples,
                chosen,
                parameters=resized(chosen),
                sizes=self.sizes,
                view=description,
                second=lambda views, _images, rows: resized(rows)[:, views],
            )

        for chosen, rendered in zip(batches, render_batches(self.renderer, map(job, batches), batch_size), strict=True):
            yield ReplayBatch(
                dict(zip(self.sizes, rendered, strict=True)),
                tuple(view.gather(chosen, self.renderer.device) for view in views),
                to_device(torch.from_numpy(chosen), self.renderer.device),
                tuple(view.gather_patches(chosen, self.renderer.device) for view in views),
            )
