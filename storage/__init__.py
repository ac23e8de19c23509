"""The embedding store: a zarr v3 group that any zarr reader opens (docs/store-format.md).

Writing is in ``storage.writer``, checking in ``storage.verify``, copying in ``storage.copy``; the layout is
``storage.schema``, the places that a store can be at are ``storage.remote``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from storage.errors import StoreError
from storage.remote import Place, RemotePath, location

if TYPE_CHECKING:
    from storage.description import describe
    from storage.reader import EmbeddingStore, open_store
    from storage.schema import Samples, SplitPlan, Status
    from storage.split import Split

__all__ = ["EmbeddingStore", "Place", "RemotePath", "Samples", "Split", "SplitPlan", "Status", "StoreError"]
__all__ += ["describe", "location", "open_store"]

LOADED_WHEN_USED = {
    "describe": "storage.description",
    **dict.fromkeys(("EmbeddingStore", "open_store"), "storage.reader"),
    **dict.fromkeys(("Samples", "SplitPlan", "Status"), "storage.schema"),
    "Split": "storage.split",
}
"""What needs numpy and zarr, which settings and help do without."""


def __getattr__(name: str) -> Any:
    if name not in LOADED_WHEN_USED:
        raise AttributeError(f"module 'storage' has no attribute '{name}'")
    return getattr(importlib.import_module(LOADED_WHEN_USED[name]), name)
