"""What a way of pre-training decides; the stage does the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from pipeline.images.index import ImageIndex
    from pipeline.pretrain.settings import PretrainSettings


class Method(NamedTuple):
    """A way of pre-training. Letters: B images of a batch, V views, H outputs of the head."""

    views: int
    """V, random views of every image in every epoch."""
    make_head: Callable[[PretrainSettings, int, ImageIndex], nn.Module]
    """What is put on so many features, and thrown away in the end; raises ``InputError`` if the images do not do."""
    loss: Callable[[PretrainSettings, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]
    """Of the outputs (V B, H), view after view, and the labels (B,): the loss, and scalars to log beside it."""
