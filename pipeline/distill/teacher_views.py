"""A teacher's embeddings of the view in use, with the next one prefetched.

A view is held in the training device's memory, in host memory, or in a memory map on a local disk: in the first of
these that has room for two views, the one in use and the next. Every rank holds them whole; a memory map is shared by
the ranks of a machine.
"""

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compress_ssl.pipeline.common.device import to_device
from compress_ssl.pipeline.common.memory import available_memory, format_bytes
from compress_ssl.pipeline.common.torchrun import torchrun_env
from compress_ssl.pipeline.distill.mapped_view import (
    MappedView,
    make_scratch_folder,
    scratch_folder,
    sweep_views,
    view_arrays,
)
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.storage import Split
from compress_ssl.storage.places.parallel import result_of
from compress_ssl.storage.schema import EVALUATION_VIEW

logger = logging.getLogger(__name__)

MEMORY_FRACTION = 0.5  # part of the free memory that views may take


@dataclass(frozen=True)
class ViewSchedule:
    """Which view of the store an epoch reads: view 1 + (e mod V), or always view 0 under fresh views."""

    random_views: int  # V; 0 for fresh views

    def view(self, epoch: int) -> int:
        """Return the view of an epoch."""
        return EVALUATION_VIEW + 1 + epoch % self.random_views if self.random_views else EVALUATION_VIEW

    @property
    def views(self) -> range:
        """All views that are read."""
        first = self.view(0)
        return range(first, first + max(1, self.random_views))


class TeacherView(NamedTuple):
    """One view of a split in memory: N samples, D features, P parameters; G x G patches of K components."""

    number: int
    embeddings: Tensor  # (N, D) float16, on the device or the CPU
    augmentation: npt.NDArray[np.float32]  # (N, P)
    patches: list[Tensor]  # in the same memory: codes (N, G * G, K) int8 and scale (N, G * G) float16; or none
    mapped: MappedView | None = None  # the memory map that holds it, if one does
    row_of: npt.NDArray[np.int64] | None = None
    """Row of this split for each row that may be asked for; the same unless given."""

    def gather(self, rows: npt.NDArray[np.int64], device: torch.device) -> Tensor:
        """Return embeddings (len(rows), D) of some rows on the device, in float32."""
        return self._take(self.embeddings, rows, device).float()

    def gather_patches(self, rows: npt.NDArray[np.int64], device: torch.device) -> Tensor | None:
        """Return patches (len(rows), G * G, K) of some rows on the device, float32; None if the view has none."""
        if not self.patches:
            return None
        codes, scale = (self._take(each, rows, device) for each in self.patches)
        return codes * scale.float()[..., None]

    def _take(self, values: Tensor, rows: npt.NDArray[np.int64], device: torch.device) -> Tensor:
        here = torch.from_numpy(rows if self.row_of is None else self.row_of[rows])
        if values.is_cuda or device.type == "cpu":
            return values[to_device(here, values.device)].to(device)
        # Only the batch is pinned, in memory that torch uses again once it is copied.
        batch = torch.empty((len(here), *values.shape[1:]), dtype=values.dtype, pin_memory=True)
        return torch.index_select(values, 0, here, out=batch).to(device, non_blocking=True)

    def close(self) -> None:
        """Release the memory map, if the view is in one."""
        if self.mapped is not None:
            self.mapped.close()


class TeacherViews:
    """One teacher's views of a split: each epoch's is read into memory while the epoch before is in use."""

    def __init__(
        self,
        split: Split,
        schedule: ViewSchedule,
        settings: DistillSettings,
        device: torch.device,
        row_of: npt.NDArray[np.int64] | None = None,
        needed: int | None = None,
        *,
        patches: bool = False,
    ) -> None:
        """Choose the memory that holds the views.

        Args:
            row_of (int64 array): For each row that may be asked for, where those are another split's, the row of this
                split.
            needed: Bytes needed for the views of all teachers, where there are others.
            patches: Hold the patches of the views of epochs too.
        """
        self.feature_dim = split.feature_dim
        self._split, self._row_of, self._schedule, self._device = split, row_of, schedule, device
        self._patches = patches
        self._epochs, self._scratch = settings.epochs, scratch_folder(settings.scratch)
        self.memory = _choose_memory(settings.teacher_memory, needed or bytes_of_views(split, patches=patches), device)
        where = {
            "device": "the memory of the training device",
            "host": "host memory",
            "mapped": f"a memory map in '{self._scratch}'",
        }[self.memory]
        logger.info(
            "The teacher's views (%d x %d%s, %s each) are held in %s, two at a time.",
            len(split), split.feature_dim, " and patches" * patches,
            format_bytes(bytes_of_views(split, 1, patches=patches)), where,
        )  # fmt: skip
        if self.memory == "mapped":
            make_scratch_folder(self._scratch)
            sweep_views(self._scratch)
        self._pool = ThreadPoolExecutor(1)
        self._views: dict[int, Future[TeacherView]] = {}
        self._waited = 0.0

    @property
    def patch_basis(self) -> tuple[Tensor, Tensor]:
        """Mean (C,) and basis (K, C) of the patches; on the CPU."""
        mean, basis = self._split.patch_basis
        return torch.from_numpy(mean), torch.from_numpy(basis)

    def view_of_epoch(self, epoch: int) -> TeacherView:
        """Wait for the view of this epoch, and start prefetching the next epoch's.

        Raises:
            DiskSpaceError: If the scratch folder is full.
            StoreError: If a view is incomplete or damaged.
        """
        started = time.monotonic()
        wanted = [self._schedule.view(later) for later in (epoch, epoch + 1) if later < self._epochs]
        for number in [number for number in self._views if number not in wanted]:
            self._release(number)
        for number in wanted:
            if number not in self._views:
                self._views[number] = self._pool.submit(self._read, number, self._patches)
        view = result_of(self._views[wanted[0]])
        self._waited += time.monotonic() - started
        return view

    @contextlib.contextmanager
    def reading(self, number: int) -> Iterator[TeacherView]:
        """Yield any view, without patches unless an epoch holds it; it is released afterwards unless an epoch does."""
        if number in self._views:
            yield result_of(self._views[number])
            return
        with contextlib.closing(self._read(number, False)) as view:
            yield view

    def waited(self) -> float:
        """Return the seconds waited for views since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited

    def close(self) -> None:
        """Release all views."""
        self._pool.shutdown(cancel_futures=True)
        for number in list(self._views):
            self._release(number)

    def _release(self, number: int) -> None:
        future = self._views.pop(number)
        if not future.cancelled() and future.exception() is None:
            future.result().close()

    def _read(self, number: int, patches: bool) -> TeacherView:
        split, augmentation = self._split, self._split.augmentation(number)
        if self.memory == "mapped":
            mapped = MappedView(split, number, self._scratch, patches=patches)
            return TeacherView(number, mapped.embeddings, augmentation, mapped.patches, mapped, self._row_of)
        embeddings, *held = (
            torch.empty(shape, dtype=dtype, device=self._device if self.memory == "device" else "cpu")
            for shape, dtype in view_arrays(split, patches=patches)
        )
        if embeddings.is_cuda:
            for rows, block in split.blocks(number):
                embeddings[rows] = torch.from_numpy(block).to(embeddings.device)
            for rows, *parts in split.patch_blocks(number) if patches else ():
                for values, part in zip(held, parts, strict=True):
                    values[rows] = torch.from_numpy(part).to(embeddings.device)
        else:
            split.view(number, embeddings.numpy())
            if patches:
                codes, scale = held
                split.patch_view(number, (codes.numpy(), scale.numpy()))
        return TeacherView(number, embeddings, augmentation, held, row_of=self._row_of)


def bytes_of_views(split: Split, count: int = 2, *, patches: bool = False) -> int:
    """Return the bytes of so many views of a split: the one in use and the next."""
    return count * sum(math.prod(shape) * dtype.itemsize for shape, dtype in view_arrays(split, patches=patches))


def _choose_memory(asked: str, needed: int, device: torch.device) -> str:
    if asked != "auto":
        return asked
    if device.type == "cuda":
        torch.cuda.empty_cache()  # memory that an earlier stage left in torch's cache is free
        free, _ = torch.cuda.mem_get_info(device)
        if needed <= MEMORY_FRACTION * free:
            return "device"
    if needed * torchrun_env().local_world_size <= MEMORY_FRACTION * available_memory():
        return "host" if device.type == "cuda" else "device"
    return "mapped"
