"""The plan of a merge: whether stores are parts of one, what that one is, and which store has which block."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from compress_ssl.storage.commits import read_records
from compress_ssl.storage.errors import StoreMismatchError
from compress_ssl.storage.places.place import Place
from compress_ssl.storage.reader import EmbeddingStore, Split
from compress_ssl.storage.schema import ROOM, Record, SplitPlan, Status
from compress_ssl.storage.tools.identity import check_same_samples

BY_SPLIT = {"data_set", "canaries", "splits"}  # attributes of the root with an entry for each split

MAY_DIFFER = {"computed_with", "rendering", "precision_against_float32", "growing"}
"""Attributes that only affect the rounding; the first store's are kept."""

logger = logging.getLogger(__name__)


class ViewBlock(NamedTuple):
    """One view of one block."""

    split: str
    view: int
    block: int

    def __str__(self) -> str:
        return f"Block {self.block} of view {self.view} of split {self.split}"


@dataclass(frozen=True)
class MergePlan:
    """The merged store, and where its blocks are."""

    attributes: dict[str, Any]
    splits: dict[str, SplitPlan]
    found: dict[ViewBlock, tuple[Place, Record]]  # the split that has each block of a view, and its record


def plan_merge(stores: Sequence[EmbeddingStore]) -> MergePlan:
    """Check that stores are parts of one, and find all blocks.

    Args:
        stores (sequence of EmbeddingStore): Each has some of the splits, with the same samples as in the others, and
            all of its views or the first ones.

    Raises:
        StoreMismatchError: If they were made with different settings or from different images, or a block differs
            between two of them.
    """
    first = stores[0]
    splits: dict[str, Split] = {}
    found: dict[ViewBlock, tuple[Place, Record]] = {}
    for store in stores:
        _check_agree(first, store, _compared(first), _compared(store))
        for split in store.splits:
            splits[split.name] = _with_more_views(splits.get(split.name, split), split)
            _add_blocks(found, split)
    return MergePlan(_attributes(stores, splits), {name: plan_of(split) for name, split in splits.items()}, found)


def _compared(store: EmbeddingStore) -> dict[str, Any]:
    """Return what must be the same: all attributes but those above, entries of tables one by one."""
    compared: dict[str, Any] = {"renderer": store.attributes.get("rendering", {}).get("renderer")}
    for key, value in store.attributes.items():
        if key not in BY_SPLIT | MAY_DIFFER:
            entries = {f"{key}.{inner}": each for inner, each in value.items()} if isinstance(value, dict) else {}
            compared |= entries if isinstance(value, dict) else {key: value}
    return compared


def _check_agree(one: EmbeddingStore | Split, other: EmbeddingStore | Split, *facts: dict[str, Any]) -> None:
    for key in dict.fromkeys((*facts[0], *facts[1])):
        values = [each.get(key) for each in facts]
        if values[0] != values[1]:
            raise StoreMismatchError(
                f"'{one.path}' and '{other.path}' are not parts of one store: their {key} is {values[0]!r} and "
                f"{values[1]!r}; merge stores that were embedded with the same settings."
            )


def _with_more_views(one: Split, other: Split) -> Split:
    """Return the one of two parts of a split that is planned with more views."""
    apart = {"views", "samples", "class_names", ROOM}
    facts = ({key: value for key, value in split.attributes.items() if key not in apart} for split in (one, other))
    _check_agree(one, other, *facts)
    common = min(len(one.views), len(other.views))
    described = ({f"view {view}": split.views[view] for view in range(common)} for split in (one, other))
    _check_agree(one, other, {"features": one.feature_dim}, {"features": other.feature_dim})
    _check_agree(one, other, *described)
    check_same_samples(one.name, one.samples, other.samples)
    return one if len(one.views) >= len(other.views) else other


def _add_blocks(found: dict[ViewBlock, tuple[Place, Record]], split: Split) -> None:
    for view in range(len(split.views)):
        for block, record in read_records(split.path, str(view)).items():
            place = ViewBlock(split.name, view, block)
            before, known = found.setdefault(place, (split.path, record))
            if known != record:
                raise StoreMismatchError(
                    f"{place} is not the same in '{before}' and in '{split.path}'; leave one of the two out, or embed "
                    "one again."
                )


def _attributes(stores: Sequence[EmbeddingStore], splits: Mapping[str, Split]) -> dict[str, Any]:
    """Return the attributes of the root: the first store's, and those of splits that it lacks from the others."""
    first = stores[0].attributes
    for store in stores[1:]:
        for key in ("rendering", "computed_with"):
            if store.attributes.get(key) != first.get(key):
                logger.warning(
                    "'%s' and '%s' were made on different machines (%s differs): the embeddings agree with those of "
                    "one run up to rounding only.",
                    stores[0].path,
                    store.path,
                    key,
                )
    attributes = {**first, "data_set": dict(first.get("data_set", {}))}
    for store in stores:
        _add_lacking(attributes, store.attributes, "canaries")
        _add_lacking(attributes["data_set"], store.attributes.get("data_set", {}), "fingerprint")
    attributes["data_set"]["images"] = sum(
        int((split.samples.status != Status.PADDING).sum()) for split in splits.values()
    )
    return attributes


def _add_lacking(attributes: dict[str, Any], others: Mapping[str, Any], key: str) -> None:
    """Add to an attribute with an entry for each split another store's entries for splits that it lacks."""
    if key in others:
        known = attributes.get(key, {})
        attributes[key] = {**known, **{name: each for name, each in others[key].items() if name not in known}}


def plan_of(split: Split) -> SplitPlan:
    """Return the plan that a split was created from."""
    return SplitPlan(split.samples, split.folder, split.views, split.columns, split.feature_dim, split.block_rows)
