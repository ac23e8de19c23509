"""Embed a sample of a store's images again, and compare with the stored embeddings and patches.

The pixels are rendered from the stored parameters, by the renderer that the store names. Embeddings are compared by
their cosine: the same images, weights and renderer give 1 up to rounding on any device. So are the patches of a view,
all components of all positions as one vector, both in 8 bits.

Letters: K images, D features, P parameters, Q numbers in the patches of an image.
"""

import logging
import secrets
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, repeat
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cosine_similarity

from compress_ssl.pipeline.common.device import device_kind
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.torch_errors import explain_out_of_memory
from compress_ssl.pipeline.embed.block import full_memory_message
from compress_ssl.pipeline.embed.embedder import Embedder, embed_images, load_embedder
from compress_ssl.pipeline.embed.patch_projection import PatchProjection
from compress_ssl.pipeline.embed.verify.settings import VerifySettings
from compress_ssl.pipeline.images.mixing import second_rows
from compress_ssl.pipeline.images.rendering import RenderJob, known_second, render
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.images.sources.source import ImageSource
from compress_ssl.pipeline.images.stored_views import check_views
from compress_ssl.storage import EmbeddingStore, Split
from compress_ssl.storage.patches import dequantise, quantise
from compress_ssl.storage.schema import EVALUATION_VIEW

MIN_COSINE = 0.999  # a smaller cosine fails the check
IMAGES = 64  # per split, unless ``sample`` is set

logger = logging.getLogger(__name__)


class Agreement(NamedTuple):
    """Cosines between stored embeddings or patches of a split and those computed again."""

    split: str
    of: Literal["embeddings", "patches"]
    images: int
    cosine_mean: float
    cosine_min: float
    least: str  # view and image of the least cosine

    @property
    def ok(self) -> bool:
        """True if all of them agree."""
        return self.cosine_min >= MIN_COSINE


class _StoredView(NamedTuple):
    row: int
    view: int
    size: int  # in pixels
    parameters: npt.NDArray[np.float32]  # (P,)
    second_parameters: npt.NDArray[np.float32]  # (P,) of the image mixed into it; NaN if there is none
    embedding: npt.NDArray[np.float16]  # (D,)
    patches: npt.NDArray[np.float32] | None  # (Q,) dequantised; None if the view has none


def reembed(store: EmbeddingStore, settings: VerifySettings, progress: Progress) -> list[Agreement]:
    """Render and embed a sample of every split's images again, each in one of its complete views.

    Raises:
        InputError: If the teacher or the data cannot be used, the teacher's features or map have another size than the
            stored ones, or an image is missing or has changed.
        RunError: If rendering fails, or memory is full.
    """
    if settings.teacher is None or settings.data is None:
        raise InputError("--teacher and --data are needed to embed images again; give both.")
    teacher, rendering = store.attributes.get("teacher", {}), store.attributes.get("rendering", {})
    machine = settings.model_copy(update={"renderer": rendering.get("renderer", "dali")})
    map_size = next((int(split.views[EVALUATION_VIEW]["size"]) for split in store.splits if split.patches), None)
    embedder = load_embedder(
        settings.teacher, machine, "auto", bool(teacher.get("normalised")), teacher.get("pool"), map_size
    )
    for key, value in embedder.network.identity().items():
        if key in teacher and teacher[key] != value:
            logger.warning(
                "'%s' was made by a teacher with %s = %r; '%s' has %r.",
                store.path, key, teacher[key], settings.teacher, value,
            )  # fmt: skip
    agreements: list[Agreement] = []
    with explain_out_of_memory(full_memory_message(settings, device_kind(embedder.renderer.device))):
        for name in store.split_names:
            split = store[name]
            check_views(split)
            if sample := _draw(split, settings.sample or IMAGES):
                source = open_source(settings.data, split.folder)
                agreements.extend(_compare(embedder, split, source, sample, progress))
    return agreements


def _draw(split: Split, count: int) -> list[_StoredView]:
    """Draw good images, each in a complete view, anew in every call. A block is read once."""
    generator = np.random.default_rng(secrets.randbits(64))
    rows, views = np.flatnonzero(split.samples.good), split.complete_views
    if not len(rows) or not views:
        return []
    chosen = np.sort(generator.choice(rows, min(count, len(rows)), replace=False))
    drawn: list[_StoredView] = []
    for block in np.unique(chosen // split.block_rows).tolist():
        view, first = int(generator.choice(views)), block * split.block_rows
        stored, size = split.block(view, block), int(split.views[view]["size"])
        rows = chosen[chosen // split.block_rows == block]
        parameters, embeddings = (stored[name][rows - first] for name in ("augmentation", "embeddings"))
        patches: Iterable[npt.NDArray[np.float32] | None] = repeat(None)
        if view in split.complete_patch_views:
            patches = _in_rows(*(each[rows - first] for each in split.patch_block(view, block)))
        second, others = np.full_like(parameters, np.nan), second_rows(parameters)
        second[others >= 0] = split.augmentation_rows(view, others[others >= 0])
        drawn += map(_StoredView, rows.tolist(), repeat(view), repeat(size), parameters, second, embeddings, patches)
    return sorted(drawn, key=lambda each: each.size)


def _compare(
    embedder: Embedder, split: Split, source: ImageSource, sample: list[_StoredView], progress: Progress
) -> Iterator[Agreement]:
    """Yield how the embeddings of a sample agree, then the patches of those views that have some."""
    embeddings: list[npt.NDArray[np.float32]] = []
    patches: list[npt.NDArray[np.float32]] = []
    projection = _projection(embedder, split)
    with progress.track(f"embed {split.name} again", len(sample)) as advance:
        for size, group in groupby(sample, key=lambda each: each.size):
            same_size = list(group)
            job = RenderJob.of(
                source,
                split.samples,
                np.array([each.row for each in same_size]),
                parameters=np.stack([each.parameters for each in same_size])[:, None],
                sizes=(size,),
                view=split.views[EVALUATION_VIEW],
                second=known_second(np.stack([each.second_parameters for each in same_size])[:, None]),
            )
            for (pixels,) in render(embedder.renderer, job, embedder.batch_size):
                embeddings.extend(embed_images(embedder, pixels).get())
                if projection is not None and embedder.maps is not None:
                    patches.extend(_in_rows(*quantise(projection(embedder.maps.take()).cpu().numpy())))
                advance(len(pixels))
    if (given := len(embeddings[0])) != split.feature_dim:
        raise InputError(
            f"The teacher has {given} features, '{split.path}' has {split.feature_dim}; give the teacher that made it."
        )
    yield _agreement(split, "embeddings", sample, [each.embedding for each in sample], embeddings)
    triples = [
        (each, each.patches, again) for each, again in zip(sample, patches, strict=False) if each.patches is not None
    ]
    if triples:
        with_patches, before, now = zip(*triples, strict=True)
        yield _agreement(split, "patches", with_patches, before, now)


def _projection(embedder: Embedder, split: Split) -> PatchProjection | None:
    """Return the projection of a split's patches, if it has some; raise InputError if the teacher's map has no such."""
    if split.patches is None or embedder.maps is None:
        return None
    layer = embedder.maps.layer
    if layer.channels != split.patches.channels or layer.side < split.patches.grid:
        raise InputError(
            f"The teacher's map has {layer.channels} channels of {layer.side} x {layer.side} positions, the patches of "
            f"'{split.path}' have {split.patches.channels} of {split.patches.grid} x {split.patches.grid}; give the "
            "teacher that made it."
        )
    return PatchProjection.of(split, embedder.renderer.device)


def _in_rows(codes: npt.NDArray[np.int8], scale: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    return dequantise(codes, scale).reshape(len(codes), -1)


def _agreement(
    split: Split,
    of: Literal["embeddings", "patches"],
    sample: Sequence[_StoredView],
    before: Sequence[npt.NDArray[np.floating]],
    now: Sequence[npt.NDArray[np.floating]],
) -> Agreement:
    stored, again = (torch.from_numpy(np.stack(each)).double() for each in (before, now))
    cosines = cosine_similarity(stored, again, dim=1)  # (K,)
    least = sample[int(cosines.argmin())]
    where = f"view {least.view} of '{split.samples.sample_path[least.row]}', row {least.row}"
    return Agreement(split.name, of, len(sample), float(cosines.mean()), float(cosines.min()), where)
