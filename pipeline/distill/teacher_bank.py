"""The teacher's embeddings of the view that is being trained on, with the next one read ahead."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from storage.schema import EVALUATION_VIEW

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from storage import Split


class TeacherView(NamedTuple):
    """One view of a split: N samples, D features, P parameters."""

    number: int
    embeddings: npt.NDArray[np.float16]
    """(N, D)"""
    augmentation: npt.NDArray[np.float32]
    """(N, P)"""


class TeacherBank:
    """Gives each epoch its view: epoch e gets random view 1 + (e mod V), read in one go while e - 1 is in use."""

    def __init__(self, split: Split, view_count: int, epochs: int) -> None:
        self._split = split
        self._view_count = view_count
        self._epochs = epochs
        self._pool = ThreadPoolExecutor(1)
        self._views: dict[int, Future[TeacherView]] = {}

    def view_of_epoch(self, epoch: int) -> TeacherView:
        """Wait for the view of this epoch, and begin to read the next epoch's.

        Raises
        ------
        StoreError
            If a view is not complete or damaged.
        """
        wanted = [self._number(later) for later in (epoch, epoch + 1) if later < self._epochs]
        self._views = {number: self._views.get(number) or self._pool.submit(self._read, number) for number in wanted}
        return self._views[wanted[0]].result()

    def _number(self, epoch: int) -> int:
        return EVALUATION_VIEW + 1 + epoch % self._view_count

    def _read(self, number: int) -> TeacherView:
        return TeacherView(number, self._split.view(number), self._split.augmentation(number))
