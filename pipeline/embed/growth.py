"""``--add-views`` and ``--add-images``: what is compared with a store that is there, and what it is to have besides."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.embed.checks.canaries import canaries_of, check_all_canaries
from compress_ssl.pipeline.embed.plan import check_made_alike
from compress_ssl.pipeline.embed.settings import SplitSource
from compress_ssl.pipeline.images.policies import TEN_CROP, Policy
from compress_ssl.storage import open_store
from compress_ssl.storage.errors import StoreIncompleteError, StoreMismatchError
from compress_ssl.storage.schema import EVALUATION_VIEW
from compress_ssl.storage.tools.growth import SplitGrowth, go_on_growing, grow_store, is_growing, samples_to_append
from compress_ssl.storage.tools.identity import check_same

if TYPE_CHECKING:
    from compress_ssl.pipeline.embed.block import Embedder
    from compress_ssl.pipeline.embed.in_process import Executor
    from compress_ssl.pipeline.embed.plan import EmbedPlan
    from compress_ssl.pipeline.embed.settings import EmbedSettings
    from compress_ssl.storage import EmbeddingStore, Split


def settings_of_store(settings: EmbedSettings, store: EmbeddingStore) -> EmbedSettings:
    """Take from a store what was not given: its splits and views, and how they were made.

    Raises
    ------
    InputError
        If views are to be added to a store of other views than random ones.
    StoreError
        If the store has not the splits that were given.
    """
    given = settings.model_fields_set
    names = [source.name for source in settings.split] if "split" in given else store.split_names
    splits = {name: store[name] for name in names}
    evaluation = next(iter(splits.values())).views[EVALUATION_VIEW]
    teacher = store.attributes["teacher"]
    made: dict[str, Any] = {
        "size": evaluation["size"],
        "resize": evaluation["policy"]["resize"],
        "precision": teacher["precision"],
        "normalise": teacher.get("normalised", False),
    }
    last = next((split.views[-1] for split in splits.values() if len(split.views) > 1), None)
    if last is not None:
        policy = dict(last["policy"])
        if policy.pop("name") != TEN_CROP:
            made |= {"policy": Policy(**policy), "seed": last["seed"]}
        elif settings.add_views and "policy" not in given:
            raise InputError(
                f"'{store.path}' has the ten crops, which are all there are; give the --policy of more views."
            )
    update = {name: value for name, value in made.items() if name not in given}
    # A split of view 0 alone was wanted so, unless it is named now.
    more = {name: (settings.add_views or 0) * (len(splits[name].views) > 1 or "split" in given) for name in splits}
    sources = tuple(
        SplitSource(name=name, folder=split.folder, views=len(split.views) - 1 + more[name])
        for name, split in splits.items()
    )
    return settings.model_copy(update={**update, "split": sources})


def grow(settings: EmbedSettings, plan: EmbedPlan, workforce: Executor) -> None:
    """Make a complete store larger, or go on with one that has begun to grow. Call under the writer's lease.

    Raises
    ------
    StoreMismatchError
        If the store was made by another teacher, of other images or with another seed; names what differs.
    StoreIncompleteError
        If the store is not complete, or is growing and ``resume`` is not asked for.
    InputError
        If there is nothing to be added, or views come out otherwise now.
    """
    place = settings.store
    sources = {name: index.source for name, index in plan.indexes.items()}
    going_on = is_growing(open_store(place).attributes)
    if going_on:
        if not settings.resume:
            raise StoreIncompleteError(f"'{place}' was left while it grew; finish that with --resume, then add more.")
        go_on_growing(place)
    store = open_store(place)
    check_made_alike(store, plan)
    for name in plan.splits:
        _check_settings(store[name], plan, settings)
    growths = {name: _growth(store[name], plan, settings, going_on=going_on) for name in plan.splits}
    workforce.call(check_all_canaries, place, sources)
    if going_on:
        return
    _check_complete(store)
    growths = {name: growth for name, growth in growths.items() if growth.views or growth.samples}
    if not growths:
        raise InputError(f"There is nothing to add to '{place}': {_why_nothing(settings)}.")
    canaries = workforce.call(_more_canaries, place, plan, growths)
    grow_store(place, growths, {"canaries": canaries, "data_set": _data_set(store, plan, growths)})


def _check_settings(split: Split, plan: EmbedPlan, settings: EmbedSettings) -> None:
    """Compare with a split what may have been given: sizes, interpolation, block rows, seed."""
    view, last = split.views[EVALUATION_VIEW], split.views[-1]
    wanted = plan.splits[split.name].views[EVALUATION_VIEW]
    found = {"interpolation": "bilinear", **view, "block_rows": split.block_rows, "seed": last["seed"]}
    now = {key: wanted[key] for key in ("size", "policy", "interpolation")}
    check_same(split.path, found, now if settings.block_rows is None else {**now, "block_rows": settings.block_rows})
    if last["seed"] is not None and len(split.views) > 1:
        check_same(split.path, found, {"seed": settings.seed})


def _growth(split: Split, plan: EmbedPlan, settings: EmbedSettings, *, going_on: bool) -> SplitGrowth:
    wanted = plan.splits[split.name]
    samples = samples_to_append(split.name, split.samples, wanted.samples)
    if samples is not None and (going_on or not settings.add_images):
        raise StoreMismatchError(
            f"{len(samples)} images of split {split.name} are not in the store, '{samples.sample_path[0]}' first; "
            + (
                "finish it without them."
                if going_on
                else "append them with --add-images, or give the images it was made from."
            )
        )
    return SplitGrowth([] if going_on else wanted.views[len(split.views) :], samples)


def _check_complete(store: EmbeddingStore) -> None:
    for name in store.split_names:
        split = store[name]
        if len(split.complete_views) < len(split.views):
            raise StoreIncompleteError(
                f"Split {name} of '{store.path}' is not complete; finish it with --resume, then add more."
            )


def _why_nothing(settings: EmbedSettings) -> str:
    no_views = "its splits have view 0 alone" if settings.add_views else ""
    no_images = "all images of the data set are in it" if settings.add_images else ""
    return " and ".join(filter(None, (no_views, no_images)))


def _more_canaries(
    worker: Embedder, place: Any, plan: EmbedPlan, growths: dict[str, SplitGrowth]
) -> dict[str, list[dict[str, Any]]]:
    """The canaries of a store, and some of its new views."""
    store = open_store(place)
    canaries = dict(store.attributes.get("canaries", {}))
    for name, growth in growths.items():
        if growth.views:
            split = store[name]
            grown = replace(plan.splits[name], samples=split.samples, views=[*split.views, *growth.views])
            more = canaries_of(grown, plan.indexes[name].source, worker.renderer, first=len(split.views))
            canaries[name] = [*canaries.get(name, []), *more]
    return canaries


def _data_set(store: EmbeddingStore, plan: EmbedPlan, growths: dict[str, SplitGrowth]) -> dict[str, Any]:
    """What the store says of its images once it has grown; fingerprints go by the order of the data set."""
    before = store.attributes["data_set"]
    appended = {name: len(growth.samples) for name, growth in growths.items() if growth.samples}
    fingerprints = {name: plan.indexes[name].fingerprint() for name in appended}
    return {
        **before,
        "images": before["images"] + sum(appended.values()),
        "fingerprint": {**before["fingerprint"], **fingerprints},
    }
