"""The embedding store: a zarr v3 group that any zarr reader opens (docs/store-format.md).

Reading is in ``reader`` and ``split``, writing in ``writer``, the layout in ``schema``; ``places`` holds where a store
can be, ``tools`` what is done with whole stores.
"""

import importlib
from typing import TYPE_CHECKING, Any

from compress_ssl.storage.errors import StoreError
from compress_ssl.storage.places.local import LocalPath
from compress_ssl.storage.places.place import Place, PlaceLike, location
from compress_ssl.storage.places.remote import RemotePath

if TYPE_CHECKING:
    from compress_ssl.storage.reader import EmbeddingStore, open_store
    from compress_ssl.storage.schema import PatchPlan, Samples, SplitPlan, Status
    from compress_ssl.storage.split import Split
    from compress_ssl.storage.tools.description import describe

__all__ = ["EmbeddingStore", "LocalPath", "PatchPlan", "Place", "PlaceLike", "RemotePath", "Samples", "Split"]
__all__ += ["SplitPlan", "Status", "StoreError", "describe", "location", "open_store"]

LOADED_WHEN_USED = {
    "describe": "compress_ssl.storage.tools.description",
    **dict.fromkeys(("EmbeddingStore", "open_store"), "compress_ssl.storage.reader"),
    "Split": "compress_ssl.storage.split",
    **dict.fromkeys(("PatchPlan", "Samples", "SplitPlan", "Status"), "compress_ssl.storage.schema"),
}  # names whose modules need numpy and zarr, which settings and help do without


def __getattr__(name: str) -> Any:
    if name not in LOADED_WHEN_USED:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(LOADED_WHEN_USED[name]), name)
