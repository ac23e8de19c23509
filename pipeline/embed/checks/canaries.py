"""The canaries of a store that is about to be made, and the check of one that is gone on with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from compress_ssl.pipeline.images.canaries import check_canaries, choose_canaries, make_canaries
from compress_ssl.pipeline.images.policies import draw_parameters
from compress_ssl.pipeline.images.rendering import interpolation_of
from compress_ssl.storage import open_store
from compress_ssl.storage.schema import EVALUATION_VIEW

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compress_ssl.pipeline.embed.block import Embedder
    from compress_ssl.pipeline.embed.plan import EmbedPlan
    from compress_ssl.pipeline.images.rendering import Renderer
    from compress_ssl.pipeline.images.sources.source import ImageSource
    from compress_ssl.storage import Place, SplitPlan


def plan_canaries(plan: EmbedPlan, renderer: Renderer) -> dict[str, list[dict[str, Any]]]:
    """Render the canaries of every split, as the store's attributes keep them.

    Raises
    ------
    InputError
        If an image is missing or has changed since it was indexed.
    RunError
        If rendering fails.
    """
    return {name: canaries_of(split, plan.indexes[name].source, renderer) for name, split in plan.splits.items()}


def check_all_canaries(worker: Embedder, place: Place, sources: Mapping[str, ImageSource]) -> None:
    """Check that the views still to be rendered would come out as those that are in the store; see check_canaries."""
    store = open_store(place)
    for name, source in sources.items():
        check_canaries(store, name, source, worker.renderer, worker.batch_size)


def canaries_of(split: SplitPlan, source: ImageSource, renderer: Renderer, first: int = 0) -> list[dict[str, Any]]:
    """Render canaries of a split's views from number ``first`` on."""
    descriptions = split.views[first:]
    chosen = choose_canaries(split.samples.good, len(descriptions))
    image_size = split.samples.image_size
    parameters = np.stack(
        [
            [
                draw_parameters(view, description, row, image_size[row : row + 1])[0]
                for view, description in enumerate(descriptions, first)
            ]
            for row, _ in chosen
        ]
    )  # (K, V, P)
    sizes = tuple(int(view["size"]) for view in descriptions)
    interpolation = interpolation_of(split.views[EVALUATION_VIEW])
    canaries = make_canaries(renderer, source, split.samples, chosen, parameters, sizes, interpolation)
    return [{**canary, "view": first + canary["view"]} for canary in canaries]
