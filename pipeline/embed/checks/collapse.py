"""A warning for embeddings that hardly differ between images."""

import logging

from compress_ssl.storage import EmbeddingStore
from compress_ssl.storage.errors import StoreError
from compress_ssl.storage.tools.spread import embedding_spread

logger = logging.getLogger(__name__)


def warn_if_collapsed(store: EmbeddingStore) -> None:
    """Warn if a sample of a store's embeddings is constant, or lies along one direction, or cannot be read."""
    try:
        spread = embedding_spread(store)
    except StoreError as error:  # the store is complete: no reason to fail
        logger.warning("Whether the embeddings differ between images was not checked: %s", error)
        return
    if spread is not None and spread.is_collapsed:
        logger.warning(
            "The embeddings in '%s' hardly differ between images: %s. Students cannot learn from them; check the "
            "teacher's weights and preprocessing.", store.path, spread.sentence,
        )  # fmt: skip
