"""Reading one split: ``open_store(path)["train"].view(3)``. Read only, and only what is committed.

Letters: V views, N samples, D features, P augmentation parameters; G x G positions of a grid of patches, K components
of a patch, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from compress_ssl.storage import schema
from compress_ssl.storage.chunks import texts
from compress_ssl.storage.errors import StoreError, StoreUnsafeError
from compress_ssl.storage.parameters import COLUMNS, KNOWN_COLUMNS, impossible
from compress_ssl.storage.patches import MAX_CODE, Patches, wrong_basis, wrong_patches, wrong_scale
from compress_ssl.storage.places.names import check_inside
from compress_ssl.storage.places.parallel import map_threads
from compress_ssl.storage.split_arrays import Records, SplitArrays
from compress_ssl.storage.values import Fault, is_finite, not_finite, wrong_sample

Rows = slice | npt.NDArray[np.integer[Any]]

BLOCKS_AT_ONCE = 16  # that are read before they are given: about 256 MiB


class Split(SplitArrays):
    """One split of a store: its samples, and its views once they are committed."""

    @cached_property
    def samples(self) -> schema.Samples:
        """Paths, labels, sizes, hashes and status of all N samples, in store order. Raises as ``view``."""
        values = {name: self._of_samples(name) for name in schema.SAMPLE_ARRAYS if name != "sample_path"}
        paths = self._paths()
        check_inside(f"'{self.path}/sample_path'", paths)
        fault = wrong_sample(values["status"], values["label"], values["image_size"], len(self.class_names))
        self._refuse("", slice(len(self)), fault)
        return schema.Samples(sample_path=paths, **values, class_names=self.class_names)

    def committed_blocks(self, view: int) -> int:
        """Return how many blocks of a view are committed."""
        return len(self.committed(str(view)))

    @property
    def complete_views(self) -> list[int]:
        """Views that can be read."""
        return [view for view in range(len(self.views)) if self.is_whole(str(view))]

    @property
    def complete_patch_views(self) -> list[int]:
        """Views whose patches can be read."""
        with_patches = self.patches.views if self.patches else ()
        return [view for view in with_patches if self.is_whole(schema.patch_unit(view))]

    def view(self, view: int, out: npt.NDArray[np.float16] | None = None) -> npt.NDArray[np.float16]:
        """Return the embeddings of all samples in one view, by one sequential read.

        Args:
            out (contiguous, writable float16 array of shape (N, D)): Memory to read them into; made if not given.

        Returns:
            embeddings (float16 array of shape (N, D)): The teacher's output before any normalisation; NaN in the rows
                of bad images.

        Raises:
            StoreError: If there is no such view, or ``out`` is another array than it must be.
            StoreIncompleteError: If some of its blocks are not committed.
            StoreDamagedError: If a committed part is missing, has another size, or does not match its checksum.
        """
        records = self._checked(self._of_view(view))
        if out is not None and not (
            out.shape == (len(self), self.feature_dim) and out.dtype == np.float16 and out.flags.carray
        ):
            raise StoreError(
                f"out must be a contiguous, writable float16 array of shape ({len(self)}, {self.feature_dim})."
            )
        return self._embeddings(view, slice(len(self)), records, out)

    def blocks(self, view: int) -> Iterator[tuple[slice, npt.NDArray[np.float16]]]:
        """Yield rows and embeddings of a view, several whole blocks at a time. Raises as ``view``."""
        records = self._checked(self._of_view(view))
        for rows in self._runs():
            yield rows, self._embeddings(view, rows, records)

    def rows(self, view: int, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float16]:
        """Return the embeddings (len(rows), D) of some samples; reads little more than these.

        Raises:
            StoreError: As ``view`` (of the parts that the rows are in), and if ``rows`` are not numbers from 0 to
                N - 1.
        """
        wanted, values = self._read_rows("embeddings", view, rows)
        if not is_finite(values):
            self._check_finite(view, wanted, values)
        return values

    def augmentation_rows(
        self, view: int, rows: Sequence[int] | npt.NDArray[np.integer[Any]]
    ) -> npt.NDArray[np.float32]:
        """Return the augmentation parameters (len(rows), P) of some samples. Raises as ``rows``."""
        wanted, values = self._read_rows("augmentation", view, rows)
        self._check_possible(view, wanted, values)
        return values

    def _read_rows(
        self, name: str, view: int, rows: Sequence[int] | npt.NDArray[np.integer[Any]]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[Any]]:
        """Return row numbers and their values in an array of views."""
        wanted = np.asarray(rows)
        if wanted.ndim == 1 and not len(wanted):
            wanted = wanted.astype(np.intp)
        if wanted.ndim != 1 or not np.issubdtype(wanted.dtype, np.integer):
            raise StoreError(f"rows must be a list of row numbers, got {wanted.dtype} of shape {wanted.shape}.")
        outside = wanted[(wanted < 0) | (wanted >= len(self))]
        if len(outside):
            raise StoreError(
                f"Split {self.name} of '{self.path.parent}' has no row {outside[0]}; it has rows 0 to {len(self) - 1}."
            )
        numbers, inside = np.divmod(wanted.astype(np.intp), self.block_rows)
        complete = self._of_view(view)
        records = self._checked({block: complete[block] for block in np.unique(numbers).tolist()}, name)
        values = np.empty((len(wanted), self.chunks[name][-1]), schema.stored_type(schema.ARRAYS[name]))

        def read(block: int) -> None:
            here = numbers == block
            path, part = self._part(name, str(view), block, records)
            values[here] = self._chunk_reader.rows(path, part, inside[here], values.shape[1:], values.dtype)

        with self._reading(name):
            list(map_threads(read, records, threads=self._threads))
        return wanted, values

    def augmentation(self, view: int) -> npt.NDArray[np.float32]:
        """Return the augmentation parameters (N, P) of one view; ``columns`` names them. Raises as ``view``."""
        records = self._checked(self._of_view(view))
        return self._augmentation(view, slice(len(self)), records)

    def block(self, view: int, block: int) -> dict[str, npt.NDArray[Any]]:
        """Return embeddings (R, D) and augmentation parameters (R, P) of a committed block of R rows, by array name."""
        rows, records = self.block_slice(block), self._of_block(str(view), block)
        return {
            "embeddings": self._embeddings(view, rows, records),
            "augmentation": self._augmentation(view, rows, records),
        }

    @cached_property
    def patch_basis(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Mean (C,) and basis (K, C): a pooled map is about ``mean + dequantise(codes, scale) @ basis``.

        Raises:
            StoreError: If the split has no patches, or as ``view``.
        """
        self._check_has_patches()
        unit = schema.BASIS_UNIT
        records = self._checked(self._created(unit))
        mean, basis = (self._read_whole(name, unit, records) for name in schema.BASIS_ARRAYS)
        if fault := wrong_basis(mean, basis):
            raise StoreUnsafeError(
                f"The patch basis of split {self.name} of '{self.path.parent}' {fault}; get the store from whoever "
                "made it, or embed again."
            )
        return mean, basis

    def patch_view(self, view: int, out: Patches | None = None) -> Patches:
        """Return the patches of all samples in one view, by two sequential reads.

        Args:
            out (contiguous, writable arrays of the shapes below): Memory to read them into; made if not given.

        Returns:
            codes (int8 array of shape (N, G * G, K)): Positions are in row-major order.
            scale (float16 array of shape (N, G * G)): ``dequantise(codes, scale)`` gives the components; NaN in the
                rows of bad images.

        Raises:
            StoreError: As ``view``, and if the view has no patches.
        """
        records = self._checked(self._of_patches(view))
        patches = self._check_has_patches()
        shape = (len(self), patches.positions, patches.components)
        wanted = [(np.dtype(np.int8), shape, True), (np.dtype(np.float16), shape[:-1], True)]
        if out is not None and [(array.dtype, array.shape, array.flags.carray) for array in out] != wanted:
            raise StoreError(
                f"out must be two contiguous, writable arrays: int8 of shape {shape} and float16 of shape {shape[:-1]}."
            )
        return self._patches(view, slice(len(self)), records, out)

    def patch_blocks(self, view: int) -> Iterator[tuple[slice, npt.NDArray[np.int8], npt.NDArray[np.float16]]]:
        """Yield rows, codes and scale of a view's patches, several whole blocks at a time. Raises as ``patch_view``."""
        records = self._checked(self._of_patches(view))
        for rows in self._runs():
            yield rows, *self._patches(view, rows, records)

    def patch_block(self, view: int, block: int) -> Patches:
        """Return the patches of a committed block of R rows: codes (R, G * G, K) and scale (R, G * G)."""
        return self._patches(view, self.block_slice(block), self._of_block(schema.patch_unit(view), block))

    def _patches(self, view: int, rows: slice, records: Records, out: Patches | None = None) -> Patches:
        least: list[int] = []
        unit, (into, scale_into) = schema.patch_unit(view), out or (None, None)
        codes = self._read("patches", unit, rows, records, into, lambda some: least.append(some.min(initial=0)))
        scale = self._read("patch_scale", unit, rows, records, scale_into)
        if min(least, default=0) < -MAX_CODE or wrong_scale(scale).any():
            good = self._status[rows] == schema.Status.GOOD
            self._refuse(f" of view {view}", rows, wrong_patches(codes, scale, good))
        return codes, scale

    def _embeddings(
        self, view: int, rows: slice, records: Records, out: npt.NDArray[np.float16] | None = None
    ) -> npt.NDArray[np.float16]:
        finite: list[bool] = []
        values = self._read("embeddings", str(view), rows, records, out, lambda half: finite.append(is_finite(half)))
        if not all(finite):
            self._check_finite(view, rows, values)
        return values

    def _check_finite(self, view: int, rows: Rows, values: npt.NDArray[np.float16]) -> None:
        good = self._status[rows] == schema.Status.GOOD
        self._refuse(f" of view {view}", rows, not_finite(values, good))

    def _augmentation(self, view: int, rows: slice, records: Records) -> npt.NDArray[np.float32]:
        values = self._read("augmentation", str(view), rows, records)
        self._check_possible(view, rows, values)
        return values

    def _check_possible(self, view: int, rows: Rows, values: npt.NDArray[np.float32]) -> None:
        if self.columns in KNOWN_COLUMNS:
            all_good = None if self.columns == COLUMNS else self._status == schema.Status.GOOD
            fault = impossible(values, self._status[rows], self._image_size[rows], self.views[view], all_good)
            self._refuse(f" of view {view}", rows, fault)

    @cached_property
    def _status(self) -> npt.NDArray[np.uint8]:
        return self._of_samples("status")

    @cached_property
    def _image_size(self) -> npt.NDArray[np.int32]:
        return self._of_samples("image_size")

    def _of_samples(self, name: str) -> npt.NDArray[Any]:
        """Return a per-sample array of numbers (N, ...)."""
        records = self._checked(self._sample_records, name)
        return self._read(name, schema.SAMPLES_UNIT, slice(len(self)), records)

    def _paths(self) -> list[str]:
        records = self._checked(self._sample_records, "sample_path")

        def read(block: int) -> list[str]:
            path, part = self._part("sample_path", schema.SAMPLES_UNIT, block, records)
            return texts(path, self._chunk_reader.bytes(path, part), self.block_rows)

        with self._reading("sample_path"):
            found = list(chain.from_iterable(map_threads(read, records, threads=self._threads)))
        return found[: len(self)]

    @cached_property
    def _sample_records(self) -> Records:
        return self._created(schema.SAMPLES_UNIT)

    def _refuse(self, where: str, rows: Rows, fault: Fault) -> None:
        """Raise StoreUnsafeError for a fault in one of these rows, if there is one."""
        if fault is not None:
            row = (rows.start or 0) + fault[0] if isinstance(rows, slice) else rows[fault[0]]
            raise StoreUnsafeError(
                f"Row {row}{where} of split {self.name} of '{self.path.parent}' {fault[1]}; get the store from whoever "
                "made it, or embed again."
            )

    def _of_view(self, view: int) -> Records:
        """Return the records of all blocks of a view."""
        if not 0 <= view < len(self.views):
            raise StoreError(
                f"Split {self.name} of '{self.path.parent}' has no view {view}; it has views 0 to "
                f"{len(self.views) - 1}."
            )
        return self._complete(str(view))

    def _of_patches(self, view: int) -> Records:
        """Return the records of all blocks of a view's patches."""
        with_patches = self._check_has_patches().views
        if view not in with_patches:
            raise StoreError(
                f"Split {self.name} of '{self.path.parent}' has no patches of view {view}; those of the views "
                f"{', '.join(map(str, with_patches)) or '(none)'} are there."
            )
        return self._complete(schema.patch_unit(view))

    def _of_block(self, unit: str, block: int) -> Records:
        """Return the record of one block, if it is committed."""
        known = self._records.get(unit, {})
        if block not in known:
            known = self.committed(unit)
        return self._checked({block: known[block]} if block in known else {})

    def _check_has_patches(self) -> schema.PatchInfo:
        if self.patches is None:
            raise StoreError(
                f"Split {self.name} of '{self.path.parent}' has no patches; embed its images with --patches."
            )
        return self.patches

    def _runs(self) -> Iterator[slice]:
        """Yield the rows of several blocks after others."""
        step = BLOCKS_AT_ONCE * self.block_rows
        for start in range(0, len(self), step):
            yield slice(start, min(start + step, len(self)))
