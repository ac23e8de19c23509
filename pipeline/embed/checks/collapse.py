"""A warning for embeddings that hardly differ between images."""

import logging

from compress_ssl.storage import EmbeddingStore
from compress_ssl.storage.tools.spread import embedding_spread

logger = logging.getLogger(__name__)


def warn_if_collapsed(store: EmbeddingStore) -> None:
    """Warn if a sample of a store's embeddings is constant, or lies along one direction."""
    spread = embedding_spread(store)
    if spread is not None and spread.is_collapsed:
        logger.warning(
            "The embeddings in '%s' hardly differ between images: %s. Students cannot learn from them; check the "
            "teacher's weights and preprocessing.", store.path, spread.sentence,
        )  # fmt: skip
