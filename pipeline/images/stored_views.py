"""The views that a store describes, which may come from anybody: can this release draw and render them?"""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.settings import Interpolation, explain
from compress_ssl.pipeline.images.policies import CUSTOM, STORED_POLICIES, TEN_CROP, stored_policy
from compress_ssl.storage import EmbeddingStore, Split
from compress_ssl.storage.attributes import is_mixed
from compress_ssl.storage.parameters import COLUMNS, KNOWN_COLUMNS, SHRINK
from compress_ssl.storage.schema import EVALUATION_VIEW


def check_views(split: Split) -> None:
    """Check that the views of a split, which may come from anybody, are such as this program draws and renders.

    Raises:
        InputError: Naming the first that is not.
    """
    where = f"split {split.name} of '{split.path.parent}'"
    if split.columns not in KNOWN_COLUMNS:
        raise InputError(f"The views of {where} have other parameters than {', '.join(COLUMNS)}; embed it again.")
    first = split.views[EVALUATION_VIEW]
    for number, view in enumerate(split.views):
        scaled = [(each.get(SHRINK), each["size"]) for each in (first, view) if SHRINK in first or SHRINK in view]
        fault = _fault(number, view) or ("another scaled decoding than view 0" if len(set(scaled)) > 1 else "")
        if not fault and is_mixed(view) and split.columns == COLUMNS:
            fault = "a policy that mixes images, and no parameters of that"
        if fault:
            raise InputError(
                f"View {number} of {where} has {fault}, which this release cannot render; get the store from whoever "
                "made it, upgrade compress-ssl, or embed again."
            )


def renderer_of(store: EmbeddingStore) -> str:
    """Return the name of the renderer that made a store's views; DALI's for a store that was imported."""
    return str(store.attributes.get("rendering", {}).get("renderer", "dali"))


def _fault(number: int, view: Mapping[str, Any]) -> str:
    """Return what is wrong with the description of a view, empty if nothing is."""
    policy, seed = view.get("policy") or {}, view.get("seed")
    interpolation = view.get("interpolation", "bilinear")
    name, resize = policy.get("name"), policy.get("resize")
    is_random = number != EVALUATION_VIEW and name != TEN_CROP
    known = (*STORED_POLICIES, CUSTOM, TEN_CROP) if number != EVALUATION_VIEW else ("evaluation",)
    if name not in known:
        return f"the policy {name!r}"
    if interpolation not in get_args(Interpolation):
        return f"the interpolation {interpolation!r}"
    if not is_random:
        if policy.get("squash", True) is not True:
            return f"squash {policy['squash']!r}"
        return "" if resize is not None and resize >= view["size"] else f"size {view['size']} and resize {resize}"
    try:
        stored_policy(policy)
    except ValidationError as error:
        return f"a policy whose {explain(error)}".rstrip(".")
    return "" if isinstance(seed, int) and 0 <= seed < 2**64 else f"the seed {seed!r}"
