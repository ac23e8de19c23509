"""Replaying stored views: the pixels the teacher saw, rendered again for the student."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import normalize

from pipeline.distill.objectives.objective import Batch
from pipeline.errors import InputError
from pipeline.images.rendering import RenderJob, render

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from pipeline.distill.teacher_bank import TeacherView
    from pipeline.images.rendering import Renderer
    from pipeline.images.sources.source import ImageSource
    from pipeline.networks.preprocessing import Preprocessing
    from storage import Split


def replay(
    renderer: Renderer,
    split: Split,
    source: ImageSource,
    view: TeacherView,
    rows: npt.NDArray[np.int64],
    batch_size: int,
    preprocessing: Preprocessing,
) -> Iterator[Batch]:
    """Yield the images of these rows in one stored view, with the teacher's embeddings of the same pixels.

    Parameters
    ----------
    renderer : Renderer
    split : Split
        Tells paths, hashes and sizes.
    source : ImageSource
        Has the split's images.
    view : TeacherView
    rows : int64 array of shape (N,)
        Rows of the split, in the order wanted.
    batch_size : int
    preprocessing : Preprocessing
        The student's.
    """
    job = RenderJob(
        source=source,
        paths=[split.samples.sample_path[row] for row in rows],
        content_hash=split.samples.content_hash[rows],
        parameters=view.augmentation[rows][:, None],
        sizes=(int(split.views[view.number]["size"]),),
    )
    for batch, (pixels,) in zip(job.batches(batch_size), render(renderer, job, batch_size), strict=True):
        chosen = rows[batch]
        teacher = torch.from_numpy(view.embeddings[chosen]).to(pixels.device).float()
        yield Batch(
            images=preprocessing.normalise(pixels),
            teacher=normalize(teacher, dim=1),
            rows=torch.from_numpy(chosen).to(pixels.device),
        )


def check_images_are_there(split: Split, source: ImageSource) -> None:
    """Check that the data set holds every good image of a split.

    That each is the same image is checked when it is read, by its content hash.

    Raises
    ------
    InputError
        Naming the first row whose image is missing.
    """
    for row in np.flatnonzero(split.samples.good):
        path = split.samples.sample_path[row]
        try:
            source.stamp(path)
        except OSError as error:
            raise InputError(
                f"The store was made from other images: row {row} of split {split.name}, '{path}', is not in "
                f"'{source.location}'; give the data set the store was made from."
            ) from error
