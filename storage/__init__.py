"""The embedding store: a zarr v3 group that any zarr reader opens (docs/store-format.md).

Writing is in ``storage.writer``, checking in ``storage.verify``; the layout is ``storage.schema``.
"""

from storage.errors import StoreError
from storage.reader import EmbeddingStore, describe, open_store
from storage.schema import Samples, SplitPlan, Status
from storage.split import Split

__all__ = ["EmbeddingStore", "Samples", "Split", "SplitPlan", "Status", "StoreError", "describe", "open_store"]
