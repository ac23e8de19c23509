"""Planning an embedding run: which images, which views, which blocks, which attributes the store gets."""

import contextlib
import logging
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compress_ssl.pipeline.common.device import library_versions, prepare_device
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.embed.block import Block, ComputeInfo
from compress_ssl.pipeline.embed.settings import PATCH_GRID, EmbedSettings, Part
from compress_ssl.pipeline.images.data_set import describe_data_set, index_data_set
from compress_ssl.pipeline.images.decode import DECODING
from compress_ssl.pipeline.images.index import ImageIndex
from compress_ssl.pipeline.images.parameters import fresh_parameters
from compress_ssl.pipeline.images.policies import POLICIES, Policy, TenCrop
from compress_ssl.pipeline.images.renderers.fastest import TRIAL_IMAGES, TRIAL_VIEWS, fastest_renderer
from compress_ssl.pipeline.images.rendering import HW_DECODER_LOAD, RenderJob, decoding_of
from compress_ssl.pipeline.images.stored_views import renderer_of
from compress_ssl.pipeline.networks.feature_map import find_map_layer, grid_side
from compress_ssl.pipeline.networks.network import Network
from compress_ssl.pipeline.networks.pooling import forward_pool
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.storage import EmbeddingStore, Split, SplitPlan, Status
from compress_ssl.storage.attributes import is_mixed
from compress_ssl.storage.errors import StoreMismatchError
from compress_ssl.storage.parameters import COLUMNS, DENOMINATORS, MIX_COLUMNS, SHRINK, decoded_size
from compress_ssl.storage.schema import EVALUATION_VIEW, PatchPlan, default_block_rows
from compress_ssl.storage.tools.growth import samples_to_append
from compress_ssl.storage.tools.identity import check_same, check_same_samples
from compress_ssl.storage.writer import StoreWriter

OLD_DEFAULTS = {"interpolation": "bilinear", "hw_decoder_load": 0.0, "decoding": 1, SHRINK: 1}
"""What holds for stores that do not record it: interpolation was no choice, and a CPU has no hardware decoder."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbedPlan:
    """A store before its first block."""

    attributes: dict[str, Any]  # of the store's root group: how it is made
    indexes: dict[str, ImageIndex]
    splits: dict[str, SplitPlan]
    forward_pool: str | None = None  # of a teacher in a store of earlier releases, which do not record it


def plan_embedding(settings: EmbedSettings, network: Network, compute: ComputeInfo, progress: Progress) -> EmbedPlan:
    """Index the images and lay out the store.

    Raises:
        InputError: If the images or the settings cannot be used.
    """
    size = settings.size or network.preprocessing.size
    resize = settings.resize or max(network.preprocessing.resize, size)
    if size > resize:
        raise InputError(f"--size {size} is larger than --resize {resize}; the crop must fit the resized image.")
    if isinstance(settings.policy, Policy) and settings.policy.blur and settings.policy.blur_sigma[1] > size:
        raise InputError(f"The policy's blur_sigma goes up to {settings.policy.blur_sigma[1]:g}; {size} is the most.")
    squash = network.preprocessing.squash if settings.squash is None else settings.squash
    network.check_size(size)
    folders = [source.folder for source in settings.split]
    by_folder = index_data_set(
        settings.data, folders, settings.store, settings, threads=settings.thread_count, progress=progress
    )
    look: dict[str, Any] = {"size": size, "interpolation": network.preprocessing.interpolation}
    if settings.scaled_decoding:
        look[SHRINK] = max(DENOMINATORS)
    resized = {"resize": resize} | ({"squash": True} if squash else {})
    evaluation: dict[str, Any] = {"policy": {"name": "evaluation", **resized}, "seed": None}  # nothing is drawn
    policy = {"name": str(settings.policy), **settings.policy.model_dump(mode="json")}
    random_view: dict[str, Any] = {"policy": policy, "seed": settings.seed}
    if isinstance(settings.policy, TenCrop):
        random_view = {"policy": policy | resized, "seed": None}
    patches = plan_patches(settings, network, size)
    values = patches.positions * patches.components if patches else 0
    most = sys.maxsize if settings.patch_views is None else settings.patch_views
    indexes, splits = {}, {}
    for source in settings.split:
        index = indexes[source.name] = by_folder[source.folder]
        count, views = len(index.samples), settings.views_of(source)
        seen = look | ({"decoding": DECODING} if index.decoding_matters else {})
        splits[source.name] = SplitPlan(
            samples=index.samples,
            folder=source.folder,
            views=[evaluation | seen, *[random_view | seen] * views],
            columns=COLUMNS + MIX_COLUMNS if is_mixed(random_view) and views else COLUMNS,
            feature_dim=network.feature_dim,
            block_rows=settings.block_rows or default_block_rows(count, network.feature_dim, values),
            patches=patches and replace(patches, views=tuple(range(1 + min(views, most)))),
        )
    attributes = {
        "teacher": {
            "name": network.name,
            **network.identity(),
            "precision": compute.precision,
            "normalised": settings.normalise,
        },
        "data_set": describe_data_set(settings.data, indexes),
        "rendering": {
            "renderer": settings.renderer,
            "hw_decoder_load": HW_DECODER_LOAD,
            "device_kind": compute.device_kind,
        },
        "computed_with": {
            "batch_size": settings.batch_size,
            "threads": compute.threads,
            "compiled": settings.compile,
            "machine": platform.machine(),
            "versions": library_versions(),
        },
    }
    return EmbedPlan(attributes, indexes, splits, forward_pool(network.module))


def warn_of_choices(network: Network, plan: EmbedPlan) -> None:
    """Log a warning for a pool, or a resize, that is not the one by which the network's authors evaluate it."""
    view = next(iter(plan.splits.values())).views[EVALUATION_VIEW]
    squash = view["policy"].get("squash", False)
    if network.pool != network.own_pool:
        logger.warning(
            "The features of %s are pooled by %s; --pool own is %s: these are two teachers.",
            network.name, network.pool, network.own_pool,
        )  # fmt: skip
    if squash != network.preprocessing.squash:
        ours, theirs = ("squashed to a square", "with their aspect ratio")[:: 1 if squash else -1]
        logger.warning("View 0 shows images %s; by its own preprocessing %s sees them %s.", ours, network.name, theirs)


def plan_patches(settings: EmbedSettings, network: Network, size: int) -> PatchPlan | None:
    """Return the patches that the settings ask for, of no view and not fitted: their basis is the first K channels.

    Args:
        size: Side of the views, in pixels.

    Raises:
        InputError: If the network has no such map.
    """
    if settings.patches is None:
        return None
    layer = find_map_layer(network.module, size)
    grid = grid_side(layer, settings.patch_grid, PATCH_GRID)
    if settings.patches > layer.channels:
        raise InputError(
            f"--patches {settings.patches} is more than the {layer.channels} channels of the map; lower it."
        )
    return PatchPlan(
        grid=grid,
        components=settings.patches,
        channels=layer.channels,
        views=(),
        explained_variance=0.0,
        fitted_on=0,
        reconstruction_cosine=0.0,
        mean=np.zeros(layer.channels, np.float32),
        basis=np.eye(settings.patches, layer.channels, dtype=np.float32),
    )


def with_renderer(settings: EmbedSettings, store: EmbeddingStore | None, progress: Progress) -> EmbedSettings:
    """Return settings with the renderer that ``auto`` stands for: of a store that is continued, or the fastest one.

    On a GPU that is DALI; on the CPU a trial on some images of the split with the most views decides.

    Raises:
        InputError: If the images or the device cannot be used.
    """
    if store is not None:
        return settings.model_copy(update={"renderer": renderer_of(store)})
    name = "dali"
    if prepare_device(settings.device, settings.thread_count).type == "cpu":
        with contextlib.suppress(InputError):  # all images of the trial are bad; what else is wrong is found again
            name = fastest_renderer(_trial(settings, progress), settings.thread_count)
    return settings.model_copy(update={"renderer": name})


def _trial(settings: EmbedSettings, progress: Progress) -> RenderJob:
    """Return the job of rendering some images of the split with the most views, in as many random views."""
    source = max(settings.split, key=settings.views_of)
    few = settings.model_copy(update={"limit": min(settings.limit or TRIAL_IMAGES, TRIAL_IMAGES)})
    indexes = index_data_set(
        settings.data, [source.folder], settings.store, few, threads=settings.thread_count, progress=progress
    )
    samples = indexes[source.folder].samples
    rows = np.flatnonzero(samples.good)
    sizes = (settings.size or Preprocessing().size,) * min(1 + settings.views_of(source), TRIAL_VIEWS)
    view = {"size": sizes[0]} | ({SHRINK: max(DENOMINATORS)} if settings.scaled_decoding else {})
    decoded = decoded_size(samples.image_size, view)
    policy = settings.policy if isinstance(settings.policy, Policy) else POLICIES["crop-flip"]
    drawn = [fresh_parameters(policy, size, 0, number, decoded)[rows] for number, size in enumerate(sizes)]
    parameters = np.stack(drawn, axis=1)
    return RenderJob.of(indexes[source.folder].source, samples, rows, parameters=parameters, sizes=sizes, view=view)


def missing_blocks(writer: StoreWriter, part: Part | None = None) -> list[Block]:
    """List the blocks that are not committed (of one part, if given), in store order."""
    return [
        Block(split, number, tuple(views))
        for split in writer.store.split_names
        for number, views in writer.pending_blocks(split).items()
        if part is None or part.has(number)
    ]


def as_begun(store: EmbeddingStore, plan: EmbedPlan, settings: EmbedSettings) -> EmbedPlan:
    """Return a plan that goes on as a store was begun: with its way to decode images, its blocks and its columns.

    Logs a warning if some images are decoded in another way now (``DECODING``).
    """
    splits = dict(plan.splits)
    for name in splits.keys() & set(store.split_names):
        if settings.block_rows is None:
            splits[name] = replace(splits[name], block_rows=store[name].block_rows)
        if store[name].columns == COLUMNS + MIX_COLUMNS:  # which unmixed views can have
            splits[name] = replace(splits[name], columns=store[name].columns)
        views, before = splits[name].views, decoding_of(store[name].views[EVALUATION_VIEW])
        if before != decoding_of(views[EVALUATION_VIEW]):
            logger.warning(
                "'%s' goes on as it was begun: 16-bit images in split %s are white, and CMYK images without Adobe's "
                "marker inverted; embed all of it again for their real colours.",
                store.path, name,
            )  # fmt: skip
            splits[name] = replace(splits[name], views=[{**view, "decoding": before} for view in views])
    return replace(plan, splits=splits)


def check_resumable(store: EmbeddingStore, plan: EmbedPlan) -> None:
    """Check that an existing store is the one this plan would make.

    Raises:
        StoreMismatchError: Naming the first setting or image that differs.
    """
    check_same(store.path, {"splits": store.split_names}, {"splits": sorted(plan.splits)})
    for name, split in plan.splits.items():
        found, wanted = store[name].samples, split.samples
        # A split that has grown may hold the same images in another order.
        reordered = found.sample_path != wanted.sample_path and set(found.sample_path) == set(wanted.sample_path)
        if not reordered and Status.PADDING not in found.status:
            check_same_samples(name, found, wanted)
        elif (appended := samples_to_append(name, found, wanted)) is not None:
            raise StoreMismatchError(
                f"{len(appended)} images of split {name} are not in the store, '{appended.sample_path[0]}' first; "
                "append them with --add-images, or give the images that it was made from."
            )
    check_teacher_and_renderer(store, plan)
    for name, split in plan.splits.items():
        check_same(store[name].path, _layout(store[name]), _layout(split))


def check_teacher_and_renderer(store: EmbeddingStore, plan: EmbedPlan) -> None:
    """Check that a store was made by the plan's teacher and renderer; warn if by another kind of device.

    Raises:
        StoreMismatchError: Naming the first difference.
    """
    for key, ignored in (("teacher", "name"), ("rendering", "device_kind")):
        wanted = {name: value for name, value in plan.attributes[key].items() if name != ignored}
        check_same(store.path, OLD_DEFAULTS | {"pool": plan.forward_pool} | store.attributes[key], wanted)
    before, now = (attributes["rendering"]["device_kind"] for attributes in (store.attributes, plan.attributes))
    if before != now:
        logger.warning(
            "'%s' was started on %s and is resumed on %s: its embeddings agree up to rounding only.",
            store.path, before, now,
        )  # fmt: skip


def _layout(split: Split | SplitPlan) -> dict[str, Any]:
    """Return a split's layout by names that a user knows from the options."""
    layout: dict[str, Any] = {"views": len(split.views) - 1, "block_rows": split.block_rows}
    patches = split.patches
    layout["patches"] = patches and patches.components
    if patches:
        layout |= {"patch_grid": patches.grid, "channels of the map": patches.channels}
        layout["views with patches"] = patches.views
    for number, view in enumerate(split.views):
        layout |= {f"the {key} of view {number}": value for key, value in as_named(view).items()}
    layout["augmentation columns"] = split.columns
    return layout


def as_named(view: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a view by names that a user knows, with what holds where nothing is recorded."""
    return {"scaled decoding" if key == SHRINK else key: value for key, value in {**OLD_DEFAULTS, **view}.items()}
