"""Students of every objective."""

from pathlib import Path
from typing import Any

import torch

from compress_ssl.storage import open_store

KINDS: dict[str, dict[str, Any]] = {
    "2q": {"objective": "compress-2q", "mask_own": True, "centre": True, "bank_size": 29, "prefill": True},
    "1q": {"objective": "compress-1q", "mask_own": True, "centre": True, "teacher_temperature": 0.02},
    "1q-random": {"objective": "compress-1q", "anchors": "random", "mask_own": True, "bank_precision": "float16"},
    "1q-k-means": {"objective": "compress-1q", "anchors": "k-means", "centre": True, "bank_size": 7},
    "reg": {"objective": "reg"},
    "reg-bn": {"objective": "reg-bn", "learning_rate": 0.01},
    "simreg": {"objective": "simreg"},
    "seed": {"objective": "seed", "prefill": True, "mask_own": True},
    "crd": {"objective": "crd", "negatives": 40},
    "crd-queue": {"objective": "crd", "negatives": 40, "negative_queue": 12},
    "cc": {"objective": "cc", "clusters": 4},
    "unic": {"objective": "unic"},
    "unic-phi-s": {"objective": "unic", "standardisation": "phi-s", "head": "linear"},
    "koleo": {"objective": "koleo", "koleo_weight": 0.3},
    "bingo": {"objective": "bingo", "neighbours": 3, "prefill": True},
    "retro": {"objective": "retro"},
    "lightly": {"objective": "lightly", "prefill": True, "bank_precision": "float16"},
}
"""Students of 29 images, each other than the default in what it keeps."""


def with_heads(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Settings of a student; Retro's with a projection head for each of its stores, written to a folder."""
    if given.get("objective") != "retro" or "teacher_head" in given:
        return given
    stores = (given["store"], *given.get("also_store", ()))
    dims = [open_store(store)["train"].feature_dim for store in stores]
    return {**given, "teacher_head": tuple(str(write_head(folder / f"head-{dim}.pt", dim)) for dim in dims)}


def write_head(path: Path, dim: int, out: int = 12) -> Path:
    """Write a checkpoint with a head as MoCo v2 saves it."""
    generator = torch.Generator().manual_seed(dim)
    shapes = {"0.weight": (dim, dim), "0.bias": (dim,), "2.weight": (out, dim), "2.bias": (out,)}
    weights = {name: torch.randn(shape, generator=generator) / dim**0.5 for name, shape in shapes.items()}
    torch.save({"state_dict": {f"module.encoder_q.fc.{name}": value for name, value in weights.items()}}, path)
    return path
