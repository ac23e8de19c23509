"""Match the stores of several teachers: rows by path, contents by hash, views by their augmentation parameters.

The first store decides the images and the views. Another one must have each of these images, with the same content, in
any row. Where views are replayed, both teachers must have seen the same crop, flip and colours: the stored augmentation
parameters are compared, image by image. What follows from a teacher's own preprocessing may differ: size (the same
crop, resized), interpolation, mean and standard deviation; so may the renderer, which the canaries check.

Letters: N rows of the first split.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.policies import resized_parameters
from compress_ssl.storage import Split


def match_rows(split: Split, other: Split) -> npt.NDArray[np.int64]:
    """Return the rows of a split's images in another store.

    Returns:
        row_of (int64 array of shape (N,)): For each good row of ``split`` the row of ``other`` that has its path; -1
            for those that are not good.

    Raises:
        InputError: If images are missing, not good, or have another content; names the first.
    """
    there = {path: row for row, path in enumerate(other.samples.sample_path) if other.samples.good[row]}
    good = np.flatnonzero(split.samples.good)
    row_of = np.full(len(split), -1)
    row_of[good] = [there.get(split.samples.sample_path[row], -1) for row in good]
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
    good = np.flatnonzero(split.samples.good)
    for view in views:
        size, other_size = (int(each.views[view]["size"]) for each in (split, other))
        ours, theirs = split.augmentation(view)[good], other.augmentation(view)[row_of[good]]
        if other_size != size:
            theirs = resized_parameters(theirs, other_size, size)
        differing = np.argwhere(ours != theirs)
        if len(differing):
            row, column = differing[0]
            raise InputError(
                f"Both teachers must have seen the same view of an image, but view {view} of "
                f"'{split.samples.sample_path[good[row]]}' is another in '{other.path.parent}' than in "
                f"'{split.path.parent}' ({_difference(split, other, view, split.columns[column])}); embed the second "
                "from the same images with the same --policy and --seed (and --size, where views are blurred), or "
                "train with --student-view fresh."
            )


def _difference(split: Split, other: Split, view: int, column: str) -> str:
    """Return the first difference in how a view of two stores was made."""
    ours, theirs = split.views[view], other.views[view]
    for key in ("policy", "seed"):
        if ours[key] != theirs[key]:
            return f"its {key} is {theirs[key]}, and was {ours[key]}"
    if ours["size"] != theirs["size"]:
        return f"its size is {theirs['size']}, and was {ours['size']}: {column} does not scale"
    return f"{column} differs: the images were others, or in another order, when the views were drawn"
