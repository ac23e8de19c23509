"""Growing a store: more views, more samples. What is there keeps its rows and its bytes, and can be read meanwhile.

New samples start with a new block. The rest of the last old block is padding (status 2), which its chunks hold behind
their last row anyway, so that no committed part is written again. A process killed at any moment leaves a store that
opens:

1. Room is made: a split's attribute ``room`` records how large its arrays may be, the arrays are resized, the new
   samples are written and recorded. None of it counts yet.
2. One write to the root records what was asked for (``growth``, which stays) and what the splits will be (``growing``).
   From here on the next call completes it.
3. Each split gets its new attributes. Now it lacks blocks, like a store that is being written.
4. Once none is lacking, ``StoreWriter.finish`` deletes ``growing``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import zarr

from compress_ssl.storage import schema
from compress_ssl.storage.commits import write_manifest
from compress_ssl.storage.errors import StoreError, StoreMismatchError
from compress_ssl.storage.parameters import check_row_numbers
from compress_ssl.storage.places.place import PlaceLike, location
from compress_ssl.storage.reader import open_store
from compress_ssl.storage.split import Split
from compress_ssl.storage.writer import open_root, written_records


@dataclass(frozen=True)
class SplitGrowth:
    """The views and samples to add to a split."""

    views: list[dict[str, Any]]  # descriptions of the views, as in ``SplitPlan``
    samples: schema.Samples | None = None  # images to append; their class names start with those of the split
    patch_views: tuple[int, ...] = ()  # numbers of views, old or new, that get patches now, by the basis that is there


def grow_store(place: PlaceLike, growths: Mapping[str, SplitGrowth], attributes: Mapping[str, Any]) -> None:
    """Add views and samples to a complete store, whose blocks it then lacks. Call under the writer's lease.

    Args:
        growths (mapping of split name to SplitGrowth)
        attributes: Attributes of the root that change with it.
    """
    store = open_store(place)
    root = open_root(store.path)
    grown = {name: make_room(root, store[name], growth) for name, growth in growths.items()}
    root.attrs.put({**store.attributes, **attributes, schema.GROWING: grown})
    resume_growth(store.path)


def resume_growth(place: PlaceLike) -> None:
    """Give the splits of a store the attributes that its root has for them. Call under the writer's lease."""
    path = location(place)
    growing: Any = open_root(path).attrs.get(schema.GROWING, {})
    for name, attributes in growing.items():
        split = open_root(path / name)
        if dict(split.attrs) != attributes:
            split.attrs.put(attributes)


def is_growing(attributes: Mapping[str, Any]) -> bool:
    """Return whether the store of these attributes has started to grow and has not finished."""
    return schema.GROWING in attributes


def samples_to_append(split_name: str, found: schema.Samples, wanted: schema.Samples) -> schema.Samples | None:
    """Return the images of a dataset that a split lacks, labelled by its class numbers; None if it lacks none.

    Raises:
        StoreMismatchError: If an image that the split holds is gone, or has other content or another label; names it.
    """
    position = {path: row for row, path in enumerate(wanted.sample_path)}
    kept = np.flatnonzero(found.status != schema.Status.PADDING)
    paths = [found.sample_path[row] for row in kept]
    gone = [path for path in paths if path not in position]
    if gone:
        shown = "'" + "', '".join(gone[:3]) + ("', ..." if len(gone) > 3 else "'")
        raise StoreMismatchError(
            f"{len(gone)} of the {len(paths)} images of split {split_name} are missing from the data ({shown}); put "
            "them back, or make another store."
        )
    rows = np.array([position[path] for path in paths], np.int64)
    class_names = (*found.class_names, *(name for name in wanted.class_names if name not in found.class_names))
    # The last number is for images without a label.
    number = np.array([*map(class_names.index, wanted.class_names), -1], np.int32)
    label = number[wanted.label]
    differing = {
        "content": found.content_hash[kept] != wanted.content_hash[rows],
        "label": found.label[kept] != label[rows],
    }
    for what, differs in differing.items():
        changed = np.flatnonzero(differs)
        if len(changed):
            raise StoreMismatchError(
                f"'{paths[changed[0]]}' of split {split_name} has another {what} now than in the store ({len(changed)} "
                f"of {len(paths)} images have); give the images it was made from, or make another store."
            )
    new = np.delete(np.arange(len(wanted)), rows)
    if not len(new):
        return None
    return replace(wanted.take(new), label=label[new], class_names=class_names)


def make_room(root: zarr.Group, split: Split, growth: SplitGrowth) -> dict[str, Any]:
    """Resize a split's arrays and write its new samples; return the attributes that will make them count.

    Raises:
        StoreError: If a view is to get patches that is not there, or the split has no basis of them. Nothing is
            written.
    """
    first = split.block_count * split.block_rows if growth.samples else len(split)
    samples, views = first + len(growth.samples or ()), len(split.views) + len(growth.views)
    check_row_numbers(split.name, split.columns, samples)
    last = max(growth.patch_views, default=-1)
    if last >= (views if split.patches else 0):
        has = f"will have {views} views" if split.patches else "was made without patches"
        raise StoreError(
            f"Split {split.name} of '{split.path.parent}' {has}, so view {last} gets none; leave it out, or make "
            "another store."
        )
    group: Any = root[split.name]
    held = group["embeddings"].shape  # more than counts, if an earlier growth was interrupted
    room = {"views": max(views, held[0]), "samples": max(samples, group["status"].shape[0])}
    counted = {**split.attributes, "samples": len(split)}
    group.attrs.put({**counted, schema.ROOM: room})
    row = (split.feature_dim, len(split.columns), split.block_rows, split.patches)
    for name, shape, _ in schema.layout(samples, views, *row):
        array = group[name]
        array.resize(shape)
        if growth.samples and name in schema.SAMPLE_ARRAYS:
            values = getattr(growth.samples, name)
            array = array.with_config({"write_empty_chunks": True})
            array[first:] = np.array(values, dtype=object) if name == "sample_path" else values
    grown = counted | {"views": [*split.views, *growth.views], "samples": samples}
    if split.patches:
        with_patches = sorted({*split.patches.views, *growth.patch_views})
        grown[schema.PATCHES] = {**counted[schema.PATCHES], "views": with_patches}
    if growth.samples:
        unit, blocks = schema.SAMPLES_UNIT, range(split.block_count, schema.block_count(samples, split.block_rows))
        write_manifest(split.path, unit, written_records(group.store, split.name, unit, blocks))
        grown["class_names"] = list(growth.samples.class_names)
    return {name: value for name, value in grown.items() if name != schema.ROOM}
