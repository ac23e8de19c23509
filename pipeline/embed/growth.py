"""``--add-views`` and ``--add-images``: check an existing store, then add views and images to it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.embed.checks.canaries import canaries_of, check_all_canaries
from compress_ssl.pipeline.embed.embedder import Embedder
from compress_ssl.pipeline.embed.executor import Executor
from compress_ssl.pipeline.embed.plan import EmbedPlan, as_named, check_teacher_and_renderer
from compress_ssl.pipeline.embed.settings import EmbedSettings, SplitSource
from compress_ssl.pipeline.images.policies import TEN_CROP, stored_policy
from compress_ssl.pipeline.images.stored_views import check_views
from compress_ssl.storage import EmbeddingStore, Place, Split, open_store
from compress_ssl.storage.attributes import is_mixed
from compress_ssl.storage.errors import StoreIncompleteError, StoreMismatchError
from compress_ssl.storage.parameters import COLUMNS, MIX_COLUMNS, SHRINK
from compress_ssl.storage.schema import EVALUATION_VIEW, GROWING, GROWTH
from compress_ssl.storage.tools.growth import SplitGrowth, grow_store, is_growing, resume_growth, samples_to_append
from compress_ssl.storage.tools.identity import check_same


def settings_of_store(settings: EmbedSettings, store: EmbeddingStore) -> EmbedSettings:
    """Return the settings with those that were not given taken from a store: its splits, views, teacher's precision.

    The views of a store that is growing are those that it will have. New views get patches if all others have them.

    Raises:
        InputError: If random views are to be added to a store of the ten crops, and no policy is given.
        StoreError: If the store lacks a split that was given.
    """
    given = settings.model_fields_set
    names = [source.name for source in settings.split] if "split" in given else store.split_names
    splits = {name: store[name] for name in names}
    growing = store.attributes.get(GROWING, {})
    for split in splits.values():
        check_views(split)
    views = {name: growing.get(name, split.attributes)["views"] for name, split in splits.items()}
    evaluation = next(iter(views.values()))[EVALUATION_VIEW]
    teacher = store.attributes["teacher"]
    stored: dict[str, Any] = {
        "size": evaluation["size"],
        "resize": evaluation["policy"]["resize"],
        "squash": evaluation["policy"].get("squash", False),
        "scaled_decoding": SHRINK in evaluation,
        "precision": teacher["precision"],
        "normalise": teacher.get("normalised", False),
        "pool": teacher.get("pool"),  # None in a store of an earlier release: as the forward pass does
    }
    with_patches = [(split, split.patches) for split in splits.values() if split.patches]
    for _, patches in with_patches:
        stored |= {"patches": patches.components, "patch_grid": patches.grid}
    if any(len(patches.views) < len(split.views) for split, patches in with_patches):
        stored["patch_views"] = max(len(patches.views) - 1 for _, patches in with_patches)
    last = next((of_split[-1] for of_split in views.values() if len(of_split) > 1), None)
    if last is not None:
        if last["policy"]["name"] != TEN_CROP:
            stored |= {"policy": stored_policy(last["policy"]), "seed": last["seed"]}
        elif settings.add_views and "policy" not in given and not settings.resume:
            raise InputError(
                f"'{store.path}' has the ten crops, and there are no more of them; give the --policy of more views."
            )
    update = {name: value for name, value in stored.items() if name not in given}
    # A split of view 0 alone stays so, unless it is named.
    more = 0 if settings.resume else settings.add_views or 0  # to resume begins no growth
    sources = tuple(
        SplitSource(
            name=name,
            folder=split.folder,
            views=len(views[name]) - 1 + more * (len(views[name]) > 1 or "split" in given),
        )
        for name, split in splits.items()
    )
    return settings.model_copy(update={**update, "split": sources})


def grow(settings: EmbedSettings, plan: EmbedPlan, executor: Executor) -> None:
    """Add views and images to a complete store; with ``resume`` finish that, if it is not finished, and begin nothing.

    Call under the writer's lease.

    Raises:
        StoreMismatchError: If the store was made by another teacher, of other images or with another seed; names the
            difference.
        StoreIncompleteError: If the store is not complete, or is growing and ``resume`` is not set.
        InputError: If there is nothing to add, or to resume, or the canaries have other pixels now.
    """
    place = settings.store
    attributes = open_store(place).attributes
    wish = _wish(settings)
    if settings.resume:
        _check_wished(place, attributes, wish)
        resume_growth(place)
    elif is_growing(attributes):
        raise StoreIncompleteError(
            f"'{place}' was interrupted while views or images were added; finish that with --resume, then add more."
        )
    store = open_store(place)
    check_teacher_and_renderer(store, plan)
    for name, planned in plan.splits.items():
        split = store[name]
        before, now = (as_named(each.views[EVALUATION_VIEW]) for each in (split, planned))
        last = split.views[-1]
        found = {**before, "block_rows": split.block_rows, "seed": last["seed"]}
        wanted = {key: now[key] for key in ("size", "policy", "interpolation", "scaled decoding")}
        if settings.block_rows is not None:
            wanted["block_rows"] = settings.block_rows
        if planned.patches:  # the grid and the components are the store's
            found["channels of the map"] = split.patches and split.patches.channels
            wanted["channels of the map"] = planned.patches.channels
        if last["seed"] is not None and len(split.views) > 1:
            wanted["seed"] = settings.seed
        check_same(split.path, found, wanted)
    growths = {name: _growth(store[name], plan, settings, growing=is_growing(attributes)) for name in plan.splits}
    executor.call(check_all_canaries, place, {name: index.source for name, index in plan.indexes.items()})
    if settings.resume:
        return
    for name in store.split_names:
        if len(store[name].complete_views) < len(store[name].views):
            raise StoreIncompleteError(f"Split {name} of '{place}' is not complete; finish it with --resume first.")
    growths = {name: growth for name, growth in growths.items() if growth.views or growth.samples}
    if not growths:
        no_views = "its splits have view 0 alone" if settings.add_views else ""
        no_images = "all images of the dataset are in it" if settings.add_images else ""
        raise InputError(f"There is nothing to add to '{place}': {' and '.join(filter(None, (no_views, no_images)))}.")
    canaries = executor.call(_more_canaries, place, plan, growths)
    before = store.attributes["data_set"]
    appended = {name: len(growth.samples) for name, growth in growths.items() if growth.samples}
    fingerprints = {name: plan.indexes[name].fingerprint() for name in appended}  # of images in the dataset's order
    data_set = {
        **before,
        "images": before["images"] + sum(appended.values()),
        "fingerprint": {**before["fingerprint"], **fingerprints},
    }
    grow_store(place, growths, {"canaries": canaries, "data_set": data_set, GROWTH: wish})


def _wish(settings: EmbedSettings) -> dict[str, Any]:
    """Return what is asked for, as a store remembers it."""
    return {
        "add_views": settings.add_views,
        "add_images": settings.add_images,
        "splits": sorted(source.name for source in settings.split),
        "policy": settings.policy.model_dump(mode="json") if settings.add_views else None,
    }


def _check_wished(place: Place, attributes: Mapping[str, Any], wish: Mapping[str, Any]) -> None:
    """Check that a growth that is to be resumed is the one that a store of these attributes has begun, or has finished.

    Images alone may be asked for in any store that is not growing: it lacks none, or ``_growth`` refuses.

    Raises:
        InputError: If it is another one.
    """
    growing, known = is_growing(attributes), attributes.get(GROWTH)
    is_known = known == wish or (growing and known is None)  # an earlier release did not record it
    if is_known or not (wish["add_views"] or (wish["add_images"] and growing)):
        return
    if growing:
        raise InputError(f"Something else is being added to '{place}'; finish that with --resume alone, then add more.")
    raise InputError(
        f"These views are not being added to '{place}': there is nothing to resume; leave --resume out to add them."
    )


def _growth(split: Split, plan: EmbedPlan, settings: EmbedSettings, *, growing: bool) -> SplitGrowth:
    planned = plan.splits[split.name]
    samples = samples_to_append(split.name, split.samples, planned.samples)
    if samples is not None and (settings.resume or not settings.add_images):
        advice = "append them with --add-images, or give the images that it was made from"
        if growing:
            advice = "finish it without them"
        elif settings.add_images:
            advice = "leave --resume out to append them"
        raise StoreMismatchError(
            f"{len(samples)} images of split {split.name} are not in the store, '{samples.sample_path[0]}' first; "
            f"{advice}."
        )
    views = planned.views[len(split.views) :]
    if any(map(is_mixed, views)):
        if split.columns == COLUMNS:
            raise InputError(
                f"Split {split.name} of '{split.path.parent}' was made without the columns {', '.join(MIX_COLUMNS)} of "
                "mixed views; embed them into a store of their own, or add views of another --policy."
            )
        if samples is not None:
            raise InputError(
                "Images and mixed views cannot be added at once; append the images with --add-images first, then add "
                "the views with --add-views."
            )
    with_patches = planned.patches.views if planned.patches else ()
    return SplitGrowth(views, samples, tuple(view for view in with_patches if view >= len(split.views)))


def _more_canaries(
    embedder: Embedder, place: Place, plan: EmbedPlan, growths: dict[str, SplitGrowth]
) -> dict[str, list[dict[str, Any]]]:
    """Return the canaries of a store and some of its new views."""
    store = open_store(place)
    canaries = dict(store.attributes.get("canaries", {}))
    for name, growth in growths.items():
        if growth.views:
            split = store[name]
            grown = replace(plan.splits[name], samples=split.samples, views=[*split.views, *growth.views])
            more = canaries_of(grown, plan.indexes[name].source, embedder.renderer, first=len(split.views))
            canaries[name] = [*canaries.get(name, []), *more]
    return canaries
