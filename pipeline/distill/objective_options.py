"""What each objective can be told, and where its paper has other values than CompRess; no torch here, as in settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from compress_ssl.pipeline.common.settings import own_options

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_OBJECTIVE: Final = "compress-2q"

_OF_A_BANK = {"temperature", "teacher_temperature", "bank_size", "bank_precision", "prefill", "mask_own", "centre"}

OPTIONS: dict[str, set[str]] = {
    "compress-2q": {"head", *_OF_A_BANK, "key_momentum"},
    "compress-1q": {"head", *_OF_A_BANK, "anchors"},
    "reg": {"head"},
    "reg-bn": {"head"},
    "simreg": {"head"},
    "seed": {"head", *_OF_A_BANK},
    "crd": {"temperature", "negatives", "memory_momentum", "negative_queue"},
    "cc": {"clusters"},
}
"""By objective, the options that it has; those of the others do nothing for it, and are refused."""

OWN_DEFAULTS: dict[str, dict[str, Any]] = {
    "seed": {"temperature": 0.2, "teacher_temperature": 0.01, "bank_size": 65_536},
    "crd": {"temperature": 0.07},
}
"""Where the paper of an objective has another value than CompRess."""

OWN_HEADS = {
    "compress-2q": "none",
    "compress-1q": "linear",
    "reg": "linear",
    "reg-bn": "linear",
    "simreg": "mlp",
    "seed": "mlp-2",
    "crd": "none",
    "cc": "none",
}
"""Head where the settings name none."""


def options_for(shared: Mapping[str, Any], objective: str | None) -> dict[str, Any]:
    """Of settings that several students share, those that do something for an objective (the default one if None)."""
    return own_options(shared, OPTIONS, objective or DEFAULT_OBJECTIVE)
