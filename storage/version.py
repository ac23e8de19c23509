"""Versions of the format: the least one that describes a store, so that earlier releases read what they can.

Version 2 adds patches, columns of parameters beyond ``COLUMNS``, and two records without which an earlier release would
render or embed something else: a policy's ``squash`` and a teacher's ``pool``.
"""

from collections.abc import Mapping
from typing import Any

from compress_ssl.storage.errors import StoreVersionError
from compress_ssl.storage.parameters import COLUMNS
from compress_ssl.storage.schema import EVALUATION_VIEW, SplitPlan

VERSIONS = (1, 2)


def format_version(attributes: Mapping[str, Any], splits: Mapping[str, SplitPlan]) -> int:
    """Return the version of a store of these attributes of the root and these splits."""
    return 2 if "pool" in attributes.get("teacher", {}) or any(map(_is_of_version_2, splits.values())) else 1


def _is_of_version_2(split: SplitPlan) -> bool:
    has_more_columns = set(split.columns) > set(COLUMNS)
    is_squashed = split.views[EVALUATION_VIEW].get("policy", {}).get("squash", False)
    return split.patches is not None or has_more_columns or is_squashed


def check_version(where: object, version: object, again: str) -> None:
    """Check that this release reads a store, or a file of one.

    Args:
        again: The last words of the error: what to do if compress-ssl cannot be upgraded.

    Raises:
        StoreVersionError: If it is of another version.
    """
    if not any(version == known for known in VERSIONS):
        raise StoreVersionError(
            f"'{where}' has format version {version!r:.40}, but this release reads versions "
            f"{' and '.join(map(str, VERSIONS))}; upgrade compress-ssl, or {again}."
        )
