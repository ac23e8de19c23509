"""What a store ought to hold, and what its public reader says after a fault: right, wrong, or an error."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from compress_ssl.storage import EmbeddingStore, LocalPath, Place, Split, open_store
from compress_ssl.storage.commits import read_records
from compress_ssl.storage.errors import StoreError
from compress_ssl.storage.schema import PATCH_ARRAYS, SAMPLE_ARRAYS, VIEW_ARRAYS, patch_unit
from compress_ssl.storage.tools.verify import verify_store

Array = npt.NDArray[Any]


@dataclass
class Answers:
    """Rows of arrays that were read: as they ought to be, or not, or refused with an error."""

    right: int = 0
    wrong: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """How often each kind of error was raised."""

    def add(self, other: Self) -> None:
        self.right += other.right
        self.wrong += other.wrong
        self.refused += other.refused


Truth = dict[str, dict[str, Array]]
"""By split the whole arrays, of views (V, N, ...) and of samples (N, ...); of patches those of the first views."""


def truth_of(store: EmbeddingStore) -> Truth:
    """What a sound store holds."""
    return {name: _arrays(store[name]) for name in store.split_names}


def _arrays(split: Split) -> dict[str, Array]:
    views = range(len(split.views))
    samples = {name: np.array(getattr(split.samples, name)) for name in SAMPLE_ARRAYS}
    return {
        "embeddings": np.stack([split.view(view) for view in views]),
        "augmentation": np.stack([split.augmentation(view) for view in views]),
        **_patches(split),
        **samples,
    }


def _patches(split: Split) -> dict[str, Array]:
    if split.patches is None:
        return {}
    pairs = [split.patch_view(view) for view in split.patches.views]
    return {name: np.stack(arrays) for name, arrays in zip(PATCH_ARRAYS, zip(*pairs, strict=True), strict=True)}


def read_everything(place: Place, truth: Truth) -> Answers:
    """Read every row of every array in every way there is, and compare with the truth."""
    answers = Answers()
    try:
        store = open_store(place)
        if store.split_names != sorted(truth):
            return Answers(wrong=sum(len(arrays["label"]) for arrays in truth.values()))
    except StoreError as error:
        return Answers(refused=Counter([type(error).__name__]))
    for name, arrays in truth.items():
        split = store[name]
        for view in range(len(arrays["embeddings"])):
            embeddings, parameters = arrays["embeddings"][view], arrays["augmentation"][view]
            order = np.random.default_rng(view).permutation(len(embeddings))
            answers.add(_compared(lambda split=split, view=view: split.view(view), embeddings))
            answers.add(_compared(lambda split=split, view=view: split.augmentation(view), parameters))
            answers.add(_compared(lambda split=split, view=view, rows=order: split.rows(view, rows), embeddings[order]))
            answers.add(_compared(lambda split=split, view=view: _by_blocks(split, view), embeddings))
            answers.add(read_committed(split, arrays, view))
        for view in range(len(arrays.get("patches", ()))):
            for number, name in enumerate(PATCH_ARRAYS):
                read: Callable[[], Array] = lambda split=split, view=view, number=number: split.patch_view(view)[number]
                answers.add(_compared(read, arrays[name][view]))
        for array in SAMPLE_ARRAYS:
            answers.add(_compared(lambda split=split, array=array: getattr(split.samples, array), arrays[array]))
    return answers


def read_committed(split: Split, arrays: dict[str, Array], view: int) -> Answers:
    """Read the blocks of a view that say they are committed, be the view complete or not."""
    answers = Answers()
    has_patches = view < len(arrays.get("patches", ()))
    try:
        committed = list(split.committed(str(view)))
        with_patches = list(split.committed(patch_unit(view))) if has_patches else []
    except StoreError as error:
        return Answers(refused=Counter([type(error).__name__]))
    for block in committed:
        rows = split.block_slice(block)
        for name in VIEW_ARRAYS:
            read: Callable[[], Array] = lambda block=block, name=name: split.block(view, block)[name]
            answers.add(_compared(read, arrays[name][view, rows]))
    for block in with_patches:
        for number, name in enumerate(PATCH_ARRAYS):
            read = lambda block=block, number=number: split.patch_block(view, block)[number]
            answers.add(_compared(read, arrays[name][view, split.block_slice(block)]))
    return answers


def damage_found(place: Place) -> set[str]:
    """The sentences of ``store verify``, or the one that it ends with."""
    try:
        found = verify_store(open_store(place))
    except StoreError as error:
        return {str(error)}
    return {*found.damaged, *found.missing}


def committed(store: Path) -> set[tuple[int, int]]:
    """View and block of every record of ``train``."""
    if not (store / "zarr.json").is_file():
        return set()
    views = range(3)
    return {(view, block) for view in views for block in read_records(LocalPath(store / "train"), str(view))}


def files(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def _by_blocks(split: Split, view: int) -> Array:
    return np.concatenate([block for _, block in split.blocks(view)])


def _compared(read: Callable[[], Any], truth: Array) -> Answers:
    try:
        found = np.array(read())
    except StoreError as error:
        return Answers(refused=Counter([type(error).__name__]))
    if found.shape != truth.shape:
        return Answers(wrong=max(len(found), len(truth)))
    if truth.dtype.kind == "f":  # bit by bit: NaN is equal to NaN
        found, truth = found.view(f"u{found.itemsize}"), truth.view(f"u{truth.itemsize}")
    wrong = int((found != truth).reshape(len(truth), -1).any(axis=1).sum())
    return Answers(right=len(truth) - wrong, wrong=wrong)
