"""Planning an embedding run: which images, which views, which blocks, and what the store says of itself."""

from __future__ import annotations

import logging
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress_ssl.pipeline.common.device import library_versions
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.data_set import describe_data_set, index_data_set
from compress_ssl.pipeline.images.policies import (
    COLUMNS,
    TenCrop,
)
from compress_ssl.storage import SplitPlan, Status
from compress_ssl.storage.errors import StoreMismatchError
from compress_ssl.storage.schema import default_block_rows
from compress_ssl.storage.tools.growth import samples_to_append
from compress_ssl.storage.tools.identity import check_same, check_same_samples

if TYPE_CHECKING:
    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.common.settings import Interpolation
    from compress_ssl.pipeline.embed.in_process import Machine
    from compress_ssl.pipeline.embed.settings import EmbedSettings, SplitSource
    from compress_ssl.pipeline.images.index import ImageIndex
    from compress_ssl.pipeline.networks.network import Network
    from compress_ssl.storage import EmbeddingStore, Samples

BEFORE_INTERPOLATION = {"interpolation": "bilinear"}
"""What the first stores do not say of their teacher and views."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbedPlan:
    """All that has to be known before the first block."""

    attributes: dict[str, Any]
    """What the store will say made it."""
    indexes: dict[str, ImageIndex]
    splits: dict[str, SplitPlan]


def plan_embedding(settings: EmbedSettings, network: Network, machine: Machine, progress: Progress) -> EmbedPlan:
    """Index the images and lay out the store.

    Raises
    ------
    InputError
        If the images or the settings cannot be used.
    """
    size = settings.size or network.preprocessing.size
    resize = settings.resize or max(network.preprocessing.resize, size)
    if size > resize:
        raise InputError(f"--size {size} is larger than --resize {resize}; the crop must fit the resized image.")
    network.check_size(size)
    folders = [source.folder for source in settings.split]
    by_folder = index_data_set(
        settings.data, folders, settings.store, settings, threads=settings.thread_count, progress=progress
    )
    indexes, splits = {}, {}
    for source in settings.split:
        index = indexes[source.name] = by_folder[source.folder]
        splits[source.name] = SplitPlan(
            samples=index.samples,
            folder=source.folder,
            views=_views(settings, source, size, resize, network.preprocessing.interpolation),
            columns=COLUMNS,
            feature_dim=network.feature_dim,
            block_rows=settings.block_rows or default_block_rows(len(index.samples), network.feature_dim),
        )
    return EmbedPlan(_attributes(settings, network, machine, indexes), indexes, splits)


def _views(
    settings: EmbedSettings, source: SplitSource, size: int, resize: int, interpolation: Interpolation
) -> list[dict[str, Any]]:
    seen = {"size": size, "interpolation": interpolation}
    evaluation = {"policy": {"name": "evaluation", "resize": resize}, "seed": None, **seen}  # nothing is drawn
    policy = {"name": str(settings.policy), **settings.policy.model_dump(mode="json")}
    seed: int | None = settings.seed
    if isinstance(settings.policy, TenCrop):
        policy, seed = policy | {"resize": resize}, None
    other = {"policy": policy, "seed": seed, **seen}
    return [evaluation, *(other for _ in range(settings.views_of(source)))]


def _attributes(
    settings: EmbedSettings, network: Network, machine: Machine, indexes: dict[str, ImageIndex]
) -> dict[str, Any]:
    return {
        "teacher": {
            "name": network.name,
            **network.identity(),
            "precision": machine.precision,
            "normalised": settings.normalise,
        },
        "data_set": describe_data_set(settings.data, indexes),
        "rendering": {"renderer": settings.renderer, "device_kind": machine.device_kind},
        "computed_with": {
            "batch_size": settings.batch_size,
            "threads": machine.threads,
            "machine": platform.machine(),
            "versions": library_versions(),
        },
    }


def check_resumable(store: EmbeddingStore, plan: EmbedPlan) -> None:
    """Check that a store on the disk is the one this plan would make.

    Raises
    ------
    StoreMismatchError
        Naming the first setting or image that differs.
    """
    check_same(store.path, {"splits": store.split_names}, {"splits": sorted(plan.splits)})
    for name, split in plan.splits.items():
        _check_images(name, store[name].samples, split.samples)
    check_made_alike(store, plan)
    for name, split in plan.splits.items():
        found = store[name]
        check_same(
            found.path,
            _facts(found.views, found.columns, found.block_rows),
            _facts(split.views, split.columns, split.block_rows),
        )


def _check_images(split_name: str, found: Samples, wanted: Samples) -> None:
    """Check that a split holds these images; one that has grown, in the order in which they came."""
    has_grown = found.sample_path != wanted.sample_path and set(found.sample_path) == set(wanted.sample_path)
    if has_grown or Status.PADDING in found.status:
        appended = samples_to_append(split_name, found, wanted)
        if appended is not None:
            raise StoreMismatchError(
                f"{len(appended)} images of split {split_name} are not in the store, '{appended.sample_path[0]}' first; append "
                "them with --add-images, or give the images it was made from."
            )
    else:
        check_same_samples(split_name, found, wanted)


def check_made_alike(store: EmbeddingStore, plan: EmbedPlan) -> None:
    """Check that a store was made by the plan's teacher and renderer.

    Raises
    ------
    StoreMismatchError
        Naming the first fact that differs.
    """
    check_same(
        store.path, BEFORE_INTERPOLATION | store.attributes["teacher"], _without(plan.attributes["teacher"], "name")
    )
    check_same(store.path, store.attributes["rendering"], _without(plan.attributes["rendering"], "device_kind"))
    before, now = (where["rendering"]["device_kind"] for where in (store.attributes, plan.attributes))
    if before != now:
        logger.warning(
            "'%s' was begun on %s and is gone on with on %s: its embeddings are the same to rounding only.",
            store.path, before, now,
        )  # fmt: skip


def _without(attributes: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name != key}


def _facts(views: list[dict[str, Any]], columns: tuple[str, ...], block_rows: int) -> dict[str, Any]:
    """What a split's layout is, by names that a user knows."""
    facts = {"views": len(views) - 1, "block_rows": block_rows, "augmentation columns": columns}
    for number, view in enumerate(views):
        facts |= {f"the {key} of view {number}": value for key, value in (BEFORE_INTERPOLATION | view).items()}
    return facts
