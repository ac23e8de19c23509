"""How much embeddings differ between images, of a bounded sample: a constant network is seen before anything learns."""

from typing import NamedTuple

import numpy as np

from compress_ssl.storage.reader import EmbeddingStore
from compress_ssl.storage.schema import EVALUATION_VIEW

IMAGES = 256  # in a sample of the largest split
BLOCKS = 4  # that are read for it, more if they are small

LEAST_SPREAD, LEAST_RANK = 0.05, 1.5
"""Measured at 224 pixels: 24 to 256 photographs give a trained EfficientNet-Lite0 0.72 to 0.86 and 22 to 204, untrained
ResNet, AlexNet, DenseNet, ViT 0.17 to 0.78 and 2.2 to 34; constant embeddings 0.0003, rounding to float16, and 1.0."""
ENOUGH = 16  # images and features, for the rank to mean anything


class Spread(NamedTuple):
    """How much the embeddings of a split differ."""

    split: str
    images: int  # in the sample
    relative: float  # root mean square distance of the embeddings to their mean, over their root mean square length
    effective_rank: float
    """RankMe (Garrido et al., ICML 2023, equation 1): exponential of the entropy of the normalised singular values."""
    is_collapsed: bool

    @property
    def sentence(self) -> str:
        """The numbers, and of what they are."""
        return (
            f"spread {self.relative:.2g} of their length, effective rank {self.effective_rank:.3g} ({self.images} "
            f"images of split {self.split})"
        )


def embedding_spread(store: EmbeddingStore) -> Spread | None:
    """Measure a sample of the largest split's view 0; None if fewer than two good images are committed.

    Raises:
        StoreDamagedError: If a block of the sample is damaged.
    """
    split = max(store.splits, key=len)
    committed = list(split.committed(str(EVALUATION_VIEW)))
    blocks = [committed[at] for at in _spaced(len(committed), max(BLOCKS, IMAGES // split.block_rows))]
    parts = [split.block(EVALUATION_VIEW, block)["embeddings"] for block in blocks]
    parts = [part[np.isfinite(part).all(axis=1)] for part in parts]
    chosen = [part[_spaced(len(part), IMAGES // len(blocks))] for part in parts]
    count = sum(map(len, chosen))
    if count < 2:
        return None
    embeddings = np.concatenate(chosen).astype(np.float64)
    length = float(np.sqrt((embeddings**2).sum(axis=1).mean()))
    distance = float(np.sqrt(((embeddings - embeddings.mean(axis=0)) ** 2).sum(axis=1).mean()))
    relative = distance / length if length else 0.0
    singular = np.sqrt(np.linalg.eigvalsh(embeddings @ embeddings.T).clip(min=0))
    shares = singular[singular > 0] / singular.sum()
    rank = float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0
    is_low = rank < LEAST_RANK and min(embeddings.shape) >= ENOUGH
    return Spread(split.name, count, relative, rank, relative < LEAST_SPREAD or is_low)


def _spaced(length: int, count: int) -> list[int]:
    """Return ``count`` positions of a sequence, or all of it, evenly spaced."""
    return [length * number // min(length, count) for number in range(min(length, count))]
