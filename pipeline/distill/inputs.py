"""Open and check everything that students are trained from, before anything is built or written.

Stores of several teachers are matched: rows by path, contents by hash, views by their augmentation parameters. The
first store decides the images and the views. Another one must have each of these images, with the same content, in any
row. Where views are replayed, both teachers must have seen the same crop, flip and colours: the stored augmentation
parameters are compared, image by image. What follows from a teacher's own preprocessing may differ: size (the same
crop, resized), interpolation, mean and standard deviation; so may the renderer, which the canaries check.

Letters: N rows of the first split, T teachers.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.distill.settings import SHARED_IN_ONE_PASS, DistillSettings
from compress_ssl.pipeline.distill.teacher_views import ViewSchedule
from compress_ssl.pipeline.images.canaries import check_canaries
from compress_ssl.pipeline.images.mixing import second_rows
from compress_ssl.pipeline.images.parameters import resized_parameters
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.rendering import Renderer, decoding_of
from compress_ssl.pipeline.images.same_images import check_same_images
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.images.sources.source import ImageSource
from compress_ssl.pipeline.images.stored_views import check_views, renderer_of
from compress_ssl.pipeline.networks.architectures import check_architecture
from compress_ssl.pipeline.networks.checkpoints.projection_head import ProjectionHead, load_projection_head
from compress_ssl.pipeline.training.distributed import check_batch_divides, local_batch_size, rank0_first, world_size
from compress_ssl.pipeline.training.run_folder import check_run_folder
from compress_ssl.storage import EmbeddingStore, Place, Split, open_store
from compress_ssl.storage.errors import StoreIncompleteError
from compress_ssl.storage.parameters import COLUMNS, MIX_COLUMN, SHRINK
from compress_ssl.storage.schema import BASIS_UNIT, EVALUATION_VIEW


@dataclass(frozen=True)
class DistillInputs:
    """Stores, images and renderer of students that are trained on one stream of images."""

    stores: dict[Place, EmbeddingStore]  # T, by place; the first decides the images and the views
    splits: list[Split]  # T
    row_of: list[npt.NDArray[Any] | None]  # T; row of each split for each row of the first; None if the same
    with_patches: list[bool]  # T; whether a student learns the patches of the store
    schedule: ViewSchedule
    view_size: int  # side of the views, in pixels
    source: ImageSource
    renderer: Renderer
    heads: dict[str, ProjectionHead]  # the teachers' projection heads, by reference

    def projection_heads(self, student: DistillSettings) -> list[nn.Module]:
        """Return copies of the projection heads of a student's teachers, in the order of its stores."""
        return [copy.deepcopy(self.heads[reference].layers) for reference in student.teacher_head]

    def teachers(self, student: DistillSettings) -> list[int]:
        """Return the numbers of a student's teachers, in the order of its stores."""
        return [list(self.stores).index(place) for place in student.stores]

    def record(self, student: DistillSettings) -> dict[str, Any]:
        """Return the description of a student's inputs for ``settings.json``."""
        first, *further = (
            {
                "teacher": store.attributes["teacher"],
                "data_set": store.attributes["data_set"],
                "views": store[student.split].views,
                **(_patch_record(store[student.split]) if student.patch_loss else {}),
            }
            for store in map(self.stores.__getitem__, student.stores)
        )
        record = {**first, "further_teachers": further} if further else first
        if student.teacher_head:
            record["teacher_head"] = [self.heads[reference].identity for reference in student.teacher_head]
        return record | ({"renderer": renderer_of(self.stores[student.store])} if student.renderer == "auto" else {})


def _patch_record(split: Split) -> dict[str, Any]:
    """Return what decides the meaning of a split's patches: their grid, and the hashes of their basis."""
    basis = split.committed(BASIS_UNIT)[0]
    grid = split.patches and split.patches.grid
    return {"patches": {"grid": grid, **{key: part["xxh3_64"] for key, part in basis.items()}}}


def open_inputs(students: Sequence[DistillSettings], device: torch.device, progress: Progress) -> DistillInputs:
    """Open stores and images, and check that these students can be trained from them.

    Raises:
        InputError: If stores, images and settings do not fit together.
        StoreError: If a store is missing, incomplete, damaged, or of other images.
    """
    shared = students[0]
    stores = {place: open_store(place) for student in students for place in student.stores}
    splits = [store[shared.split] for store in stores.values()]
    first, *further = splits
    is_fresh = shared.student_view == "fresh"
    available = len(first.views) - 1 - EVALUATION_VIEW
    if not is_fresh and available == 0:
        raise InputError(
            f"Split {first.name} of '{first.path.parent}' has the evaluation view alone; a student needs random views: "
            "embed with --views, or train with --student-view fresh."
        )
    if shared.views is not None and shared.views > available:
        raise InputError(f"--views {shared.views} is set, but '{first.path.parent}' has {available} random views.")
    heads = {reference: load_projection_head(reference) for student in students for reference in student.teacher_head}
    for student in students:
        for place in student.stores if student.teacher_head else ():
            if stores[place].attributes["teacher"].get("normalised"):
                raise InputError(
                    f"'{place}' holds normalised embeddings, on which no projection head was trained; embed again "
                    "without --normalise."
                )
    schedule = ViewSchedule(0 if is_fresh else shared.views or available)
    learnt = {place for student in students if student.patch_loss for place in student.stores}
    with_patches = [place in learnt for place in stores]
    for split, has_patches in zip(splits, with_patches, strict=True):
        check_views(split)
        check_complete(split, schedule.views)
        if has_patches:
            check_patches(split, schedule.views)
    good = int(first.samples.good.sum())
    if good < shared.batch_size:
        raise InputError(
            f"--batch-size {shared.batch_size} is more than the {good} good images of split {first.name}; lower it."
        )
    view_size = int(first.views[schedule.view(0)]["size"])
    for student in students:
        if student.student_size is not None and student.student_size > view_size:
            raise InputError(
                f"--student-size {student.student_size} is larger than the {view_size} pixels of the views in "
                f"'{student.store}'; lower it, or embed larger views."
            )
    with rank0_first():
        source = open_source(shared.data, first.folder, shared.run.parent / "index")
    check_same_images(first, source, shared.check_content, shared.thread_count, progress)
    row_of = [match_rows(first, other) for other in further]
    name = renderer_of(stores[shared.store]) if shared.renderer == "auto" else shared.renderer
    renderer = make_renderer(name, device, shared.thread_count)
    if not is_fresh:
        opened = list(stores.values())
        check_canaries(opened[0], first.name, source, renderer, shared.batch_size)
        for store, other, rows in zip(opened[1:], further, row_of, strict=True):
            check_same_views(first, other, rows, schedule.views)
            check_canaries(store, first.name, source, renderer, shared.batch_size, rows)
    matched = [None, *row_of]
    return DistillInputs(stores, splits, matched, with_patches, schedule, view_size, source, renderer, heads)


def check_students(students: Sequence[DistillSettings]) -> None:
    """Check that students can share one stream of images, and that their folders are free or may be used.

    Raises:
        InputError: If their shared settings or batch sizes do not fit, or a folder is taken.
    """
    first = students[0]
    for number, student in enumerate(students):
        if any(student.run == earlier.run for earlier in students[:number]):
            raise InputError(f"'{student.run}' is the folder of two students; give each its own.")
        for field in SHARED_IN_ONE_PASS:
            if getattr(student, field) != getattr(first, field):
                raise InputError(
                    f"'{first.run}' and '{student.run}' cannot be trained on one stream of images: their {field} "
                    "differ; train them one after the other."
                )
    for student in students:
        check_architecture(student.student)
        check_batch_divides(student.batch_size, student.accumulation)
        if student.head_or_default == "mlp" and local_batch_size(student.batch_size) == student.accumulation:
            raise InputError(
                "--head mlp has batch norm, which needs at least two images per micro-batch on each of the "
                f"{world_size()} ranks; raise --batch-size or lower --accumulation."
            )
        check_run_folder(student, student.run)


def check_complete(split: Split, views: Iterable[int]) -> None:
    """Check that a split has these views, complete; raise InputError or StoreIncompleteError."""
    needed = set(views)
    if max(needed) >= len(split.views):
        raise InputError(
            f"{max(needed)} random views are replayed, but '{split.path.parent}' has {len(split.views) - 1}; embed "
            "it with as many --views, train on fewer with --views, or with --student-view fresh."
        )
    if missing := sorted(needed.difference(split.complete_views)):
        raise StoreIncompleteError(
            f"View {missing[0]} of split {split.name} of '{split.path.parent}' is not complete; finish it with "
            "'compress-ssl embed --resume', or train on fewer with --views."
        )


def check_patches(split: Split, views: Iterable[int]) -> None:
    """Check that a split has the patches of these views, complete; raise InputError or StoreIncompleteError."""
    if split.patches is None:
        raise InputError(
            f"'{split.path.parent}' has no patches, and --patch-loss learns them; embed it with --patches, or leave "
            "the option out."
        )
    replayed, with_patches = sorted(views), split.patches.views
    if lacking := sorted(set(replayed).difference(with_patches)):
        first = replayed.index(lacking[0])  # so many views before it have patches
        advice = (
            f"train on those with --views {first}, or leave" if first else "embed with more --patch-views, or leave"
        )
        raise InputError(
            f"View {lacking[0]} of '{split.path.parent}' is replayed, and has no patches, which are of the views "
            f"{', '.join(map(str, with_patches))}; {advice} --patch-loss out."
        )
    if missing := sorted(set(views).difference(split.complete_patch_views)):
        raise StoreIncompleteError(
            f"The patches of view {missing[0]} of split {split.name} of '{split.path.parent}' are not complete; finish "
            "it with 'compress-ssl embed --resume'."
        )


def match_rows(split: Split, other: Split) -> npt.NDArray[np.int64]:
    """Return the rows of a split's images in another store.

    Returns:
        row_of (int64 array of shape (N,)): For each good row of ``split`` the row of ``other`` that has its path; -1
            for those that are not good.

    Raises:
        InputError: If images are missing, not good, or have another content; names the first.
    """
    good = np.flatnonzero(split.samples.good)
    paths, other_paths = split.samples.sample_path, other.samples.sample_path
    if paths == other_paths:  # a dict takes 100 bytes a row
        there = np.arange(len(paths))
    else:
        found = {path: row for row, path in enumerate(other_paths)}
        there = np.array([found.get(path, -1) for path in paths])
    is_good = np.append(other.samples.good, False)[there]  # row -1 is none
    row_of = np.where(split.samples.good & is_good, there, -1)
    missing = good[row_of[good] < 0]
    if len(missing):
        raise InputError(
            f"{len(missing)} of the {len(good)} images of split {split.name} of '{split.path.parent}' are not in "
            f"'{other.path.parent}', the first is '{split.samples.sample_path[missing[0]]}'; embed them too, or name "
            "the store with fewer images first."
        )
    other_content = good[split.samples.content_hash[good] != other.samples.content_hash[row_of[good]]]
    if len(other_content):
        raise InputError(
            f"{len(other_content)} images of split {split.name} had other content when '{other.path.parent}' was made "
            f"than for '{split.path.parent}', the first is '{split.samples.sample_path[other_content[0]]}'; embed the "
            "images again."
        )
    return row_of


def check_same_views(split: Split, other: Split, row_of: npt.NDArray[np.int64], views: Iterable[int]) -> None:
    """Check that two teachers saw the same views of the images of a split.

    Args:
        row_of (int64 array of shape (N,)): From ``match_rows``.
        views: Views to compare; both splits have them, complete.

    Raises:
        InputError: If a view differs; names the first, and how it differs.
    """
    if split.columns != other.columns:
        raise InputError(
            f"'{other.path.parent}' describes views by other columns than '{split.path.parent}' "
            f"({', '.join(other.columns)}); embed it again, or train with --student-view fresh."
        )
    if len({decoding_of(each.views[EVALUATION_VIEW]) for each in (split, other)}) > 1:
        raise InputError(
            f"'{split.path.parent}' and '{other.path.parent}' hold 16-bit or CMYK images, which the older of the two "
            "shows in other colours; embed it again."
        )
    good = np.flatnonzero(split.samples.good)
    for view in views:
        size, other_size = (int(each.views[view]["size"]) for each in (split, other))
        ours, theirs = split.augmentation(view)[good], other.augmentation(view)[row_of[good]]
        if split.columns != COLUMNS:  # second images by the other store's rows
            mixed_with = second_rows(ours)
            ours[:, MIX_COLUMN["mix_row"]] = np.where(mixed_with < 0, -1, row_of[mixed_with])
        if other_size != size:
            theirs = resized_parameters(theirs, other_size, size)
        differing = np.argwhere(ours != theirs)
        if len(differing):
            row, column = differing[0]
            raise InputError(
                f"Both teachers must have seen the same view of an image, but view {view} of "
                f"'{split.samples.sample_path[good[row]]}' is another in '{other.path.parent}' than in "
                f"'{split.path.parent}' ({_difference(split, other, view, split.columns[column])}); embed the second "
                "from the same images with the same --policy and --seed (and --size, where views are blurred or "
                "--scaled-decoding is set), or train with --student-view fresh."
            )


def _difference(split: Split, other: Split, view: int, column: str) -> str:
    """Return the first difference in how a view of two stores was made."""
    ours, theirs = split.views[view], other.views[view]
    for key in ("policy", "seed"):
        if ours[key] != theirs[key]:
            return f"its {key} is {theirs[key]}, and was {ours[key]}"
    if ours.get(SHRINK) != theirs.get(SHRINK):
        return "one of them with --scaled-decoding"
    if ours["size"] != theirs["size"]:
        return f"its size is {theirs['size']}, and was {ours['size']}: {column} does not scale"
    return f"{column} differs: the images were others, or in another order, when the views were drawn"
