"""What students see: replayed views (the pixels the teacher saw, rendered again), or fresh ones of their own.

Letters: N samples, B batch, D the teacher's dimension, S side in pixels.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from compress_ssl.pipeline.images.policies import fresh_parameters, resized_parameters
from compress_ssl.pipeline.images.rendering import RenderJob, interpolation_of, render
from compress_ssl.pipeline.training.distributed import local_batch_size, rank_indices
from compress_ssl.pipeline.training.schedule import epoch_order
from compress_ssl.storage.schema import EVALUATION_VIEW

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from compress_ssl.pipeline.distill.teacher_views import TeacherView, TeacherViews
    from compress_ssl.pipeline.images.policies import Policy
    from compress_ssl.pipeline.images.rendering import Renderer
    from compress_ssl.pipeline.images.sources.source import ImageSource
    from compress_ssl.storage import Split

FRESH_VIEWS = 2**32
"""Number of the first epoch's fresh view: no view of a store has it."""
PREFILL_EPOCHS = 2**32
"""Number of the order in which images fill the banks before the first epoch."""


class Replayed(NamedTuple):
    """Some images as students see them, and what the teachers say of them."""

    pixels: dict[int, Tensor]
    """By side: uint8 (B, S, S, 3)."""
    teachers: tuple[Tensor, ...]
    """Of each teacher (B, D) float32, L2-normalised."""
    rows: Tensor
    """(B,) int64 rows of the split."""


class ViewSegment(NamedTuple):
    """Some consecutive images of an epoch's order, and the view that they are seen in."""

    view: int
    rows: npt.NDArray[np.int64]


@dataclass(frozen=True)
class ViewNumbers:
    """Which view of the store an epoch reads: view 1 + (e mod V), or always view 0 under fresh views."""

    random_views: int
    """V; 0 for fresh views."""

    def __call__(self, epoch: int) -> int:
        """Number of the view."""
        return EVALUATION_VIEW + 1 + epoch % self.random_views if self.random_views else EVALUATION_VIEW

    @property
    def all(self) -> range:
        """Numbers of all views that are read."""
        first = self(0)
        return range(first, first + max(1, self.random_views))


@dataclass(frozen=True)
class Replay:
    """The images of a split in every epoch's order and view; a function of its fields, without state."""

    split: Split
    """Of the first teacher's store: its images, in its views, are what students see."""
    source: ImageSource
    renderer: Renderer
    teachers: tuple[TeacherViews, ...]
    """Each gives embeddings by the rows of ``split``."""
    sizes: tuple[int, ...]
    """Sides to render, one for each kind of student."""
    batch_size: int
    """Of all processes together."""
    seed: int
    number_of: ViewNumbers
    policy: Policy | None
    """Of fresh views; None to replay those of the store."""

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of good images."""
        return int(self.split.samples.good.sum()) // self.batch_size

    def batches(self, epoch: int, first_step: int) -> Iterator[Replayed]:
        """Batches of an epoch from a step on; of each this process's part."""
        views = [teacher.view_of_epoch(epoch) for teacher in self.teachers]
        yield from self._rendered(views, self._order(epoch)[first_step * self.batch_size :], FRESH_VIEWS + epoch)

    def before(self, epoch: int, step: int, count: int) -> list[ViewSegment]:
        """The last ``count`` images seen before a step, or all where they are fewer; oldest first."""
        stretches: list[ViewSegment] = []
        end = step * self.batch_size
        while count > 0 and epoch >= 0:
            rows = self._order(epoch)[max(0, end - count) : end]
            if len(rows):  # a stretch costs the reading of its view
                stretches.append(ViewSegment(self.number_of(epoch), rows))
            count -= len(rows)
            epoch, end = epoch - 1, self.steps_per_epoch * self.batch_size
        return stretches[::-1]

    def to_prefill(self, count: int) -> list[ViewSegment]:
        """Images to fill a bank of ``count`` rows with before the first step: whole batches, at least so many."""
        stretches: list[ViewSegment] = []
        number = 0
        while count > 0:
            rows = self._order(PREFILL_EPOCHS + number)[: -(-count // self.batch_size) * self.batch_size]
            stretches.append(ViewSegment(self.number_of(number), rows))
            count -= len(rows)
            number += 1
        return stretches

    def embeddings(self, teacher: int, stretches: list[ViewSegment]) -> Iterator[tuple[Tensor, Tensor]]:
        """One teacher's embeddings (B, D) and their rows (B,), batch by batch, as in ``Replayed``."""
        for stretch in stretches:
            with self.teachers[teacher].reading(stretch.view) as view:
                for start in range(0, len(stretch.rows), self.batch_size):
                    rows = stretch.rows[start : start + self.batch_size]
                    yield view.gather(rows, self.renderer.device), torch.from_numpy(rows).to(self.renderer.device)

    def all_embeddings(self, teacher: int) -> tuple[Tensor, Tensor]:
        """One teacher's embeddings of view 0 of all good images, and their rows; on the CPU."""
        rows = np.flatnonzero(self.split.samples.good)
        with self.teachers[teacher].reading(EVALUATION_VIEW) as view:
            return view.gather(rows, torch.device("cpu")), torch.from_numpy(rows)

    def images(self, stretches: list[ViewSegment]) -> Iterator[Replayed]:
        """The images themselves, batch by batch; of each this process's part."""
        for number, stretch in enumerate(stretches):
            with contextlib.ExitStack() as held:
                views = [held.enter_context(teacher.reading(stretch.view)) for teacher in self.teachers]
                yield from self._rendered(views, stretch.rows, FRESH_VIEWS + PREFILL_EPOCHS + number)

    def waits(self) -> dict[str, float]:
        """Seconds waited for views of all teachers since the last call."""
        return {"teacher_wait_seconds": sum(teacher.waited() for teacher in self.teachers)}

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        good = np.flatnonzero(self.split.samples.good)
        return epoch_order(good, self.seed, epoch)[: self.steps_per_epoch * self.batch_size]

    def _rendered(
        self, views: Sequence[TeacherView], rows: npt.NDArray[np.int64], fresh_number: int
    ) -> Iterator[Replayed]:
        rows, batch_size = rank_indices(rows, self.batch_size), local_batch_size(self.batch_size)
        samples = self.split.samples
        description = self.split.views[views[0].number]
        size = int(description["size"])
        if self.policy is None:
            parameters = views[0].augmentation[rows]
        else:
            parameters = fresh_parameters(self.policy, size, self.seed, fresh_number, samples.image_size)[rows]
        job = RenderJob.of(
            self.source,
            samples,
            rows,
            parameters=np.stack([resized_parameters(parameters, size, side) for side in self.sizes], axis=1),
            sizes=self.sizes,
            interpolation=interpolation_of(description),
        )
        for batch, rendered in zip(job.batches(batch_size), render(self.renderer, job, batch_size), strict=True):
            chosen = rows[batch]
            yield Replayed(
                dict(zip(self.sizes, rendered, strict=True)),
                tuple(view.gather(chosen, self.renderer.device) for view in views),
                torch.from_numpy(chosen).to(self.renderer.device),
            )
