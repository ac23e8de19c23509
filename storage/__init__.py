"""The embedding store: a zarr v3 group that any zarr reader opens (docs/store-format.md).

Writing is in ``compress_ssl.storage.writer``, checking in ``compress_ssl.storage.tools.verify``, copying in ``compress_ssl.storage.tools.copy``; the layout is
``compress_ssl.storage.schema``, the places that a store can be at are ``compress_ssl.storage.places.remote``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from compress_ssl.storage.errors import StoreError
from compress_ssl.storage.places.remote import Place, RemotePath, location

if TYPE_CHECKING:
    from compress_ssl.storage.reader import EmbeddingStore, open_store
    from compress_ssl.storage.schema import Samples, SplitPlan, Status
    from compress_ssl.storage.split import Split
    from compress_ssl.storage.tools.description import describe

__all__ = ["EmbeddingStore", "Place", "RemotePath", "Samples", "Split", "SplitPlan", "Status", "StoreError"]
__all__ += ["describe", "location", "open_store"]

LOADED_WHEN_USED = {
    "describe": "compress_ssl.storage.tools.description",
    **dict.fromkeys(("EmbeddingStore", "open_store"), "compress_ssl.storage.reader"),
    **dict.fromkeys(("Samples", "SplitPlan", "Status"), "compress_ssl.storage.schema"),
    "Split": "compress_ssl.storage.split",
}
"""What needs numpy and zarr, which settings and help do without."""


def __getattr__(name: str) -> Any:
    if name not in LOADED_WHEN_USED:
        raise AttributeError(f"module 'storage' has no attribute '{name}'")
    return getattr(importlib.import_module(LOADED_WHEN_USED[name]), name)
