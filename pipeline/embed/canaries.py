"""The canaries of a store that is about to be made, and the check of one that is gone on with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.embed.plan import draw_parameters
from pipeline.images.canaries import CanaryView, check_canaries, choose_canaries, make_canaries

if TYPE_CHECKING:
    from pipeline.embed.plan import EmbedPlan
    from pipeline.images.rendering import Renderer
    from storage import EmbeddingStore, SplitPlan


def plan_canaries(plan: EmbedPlan, renderer: Renderer) -> dict[str, list[dict[str, Any]]]:
    """Render the canaries of every split, as the store's attributes keep them.

    Raises
    ------
    InputError
        If an image is missing or has changed since it was indexed.
    RunError
        If rendering fails.
    """
    return {
        name: make_canaries(renderer, plan.indexes[name].source, split.samples, _views(split))
        for name, split in plan.splits.items()
    }


def check_all_canaries(store: EmbeddingStore, plan: EmbedPlan, renderer: Renderer, batch_size: int) -> None:
    """Check that the views still to be rendered would come out as those that are in the store; see check_canaries."""
    for name in store.split_names:
        check_canaries(store, name, plan.indexes[name].source, renderer, batch_size)


def _views(split: SplitPlan) -> list[CanaryView]:
    size = split.samples.image_size
    return [
        CanaryView(
            row=row,
            view=view,
            size=int(split.views[view]["size"]),
            parameters=draw_parameters(view, split.views[view], row, size[row : row + 1])[0],
        )
        for row, view in choose_canaries(split.samples.good, len(split.views))
    ]
