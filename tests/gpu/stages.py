"""The stages as the parts call them: stores that several parts use, and trainings on them."""

import json
from typing import Any

from compress_ssl.pipeline.common.progress import Progress, Silent
from compress_ssl.pipeline.distill.run import distill
from compress_ssl.pipeline.distill.settings import DEFAULTS, DistillSettings
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.storage import EmbeddingStore, open_store
from tests.gpu.run import Run

STORES: dict[str, dict[str, Any]] = {
    "photos": {"policy": "crop-flip", "pixel_hashes": 200},
    "moco": {"policy": "moco-v2"},
    "cpu": {"teacher": "random/resnet18", "device": "cpu", "views": 2},
    "small": {"teacher": "random/resnet18", "device": "cpu", "renderer": "torchvision", "views": 2, "limit": 192,
              "size": 64, "resize": 72},
    "second": {"teacher": "random/resnet34", "device": "cpu", "renderer": "torchvision", "views": 2, "limit": 192,
               "size": 64, "resize": 72},
    "many": {"teacher": "random/resnet50-w4", "data": "many", "views": 1, "split": ["train"]},
}  # fmt: skip
"""Stores of the photographs; what is not given is as in ``embed_settings``."""

TOY = {"teacher": "random/conv4-16", "size": 32, "resize": 36, "limit": 16}


def embed_settings(run: Run, name: str, **given: Any) -> EmbedSettings:
    """Return the settings of a store called ``name``."""
    settings = {"teacher": "random/resnet50", "split": ["train", "val:0"], "views": 3, "normalise": True,
                "device": run.device, "overwrite": True, **given, **(TOY if run.toy else {})}  # fmt: skip
    data = run.folder / settings.pop("data", "photos")
    return EmbedSettings.model_validate({"data": data, "store": run.folder / f"{name}.zarr", **settings})


def stored(run: Run, name: str, progress: Progress | None = None) -> EmbeddingStore:
    """Return one of ``STORES``, made by the first part that asks for it."""
    settings = embed_settings(run, name, **STORES[name])
    if (run.folder / f"{name}.zarr").exists():
        return open_store(settings.store)
    return embed(settings, progress or Silent())


def distill_settings(run: Run, name: str, **given: Any) -> DistillSettings:
    """Return the settings of a training on the store ``small``, in float32 unless given."""
    bank = {"bank_size": 64} if "bank_size" in DEFAULTS[given.get("objective", "compress-2q")] else {}
    settings = {"store": run.folder / "small.zarr", "data": run.folder / "photos", "run": run.folder / "runs" / name,
                "student": "conv4-16" if run.toy else "resnet18", "epochs": 2, "batch_size": 8 if run.toy else 64,
                "precision": "float32", "device": run.device, "renderer": "torchvision", "overwrite": True,
                **bank, **given}  # fmt: skip
    return DistillSettings.model_validate(settings)


def losses(settings: DistillSettings, progress: Progress | None = None) -> list[float]:
    """Train a student; the losses that it logged."""
    distill(settings, progress or Silent())
    return logged_losses(settings)


def logged_losses(settings: DistillSettings) -> list[float]:
    """Return the losses logged so far in the run of these settings."""
    lines = (settings.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


def apart(one: list[float], other: list[float]) -> float:
    """Return the largest relative difference of two trainings' losses."""
    return max(abs(a - b) / abs(a) for a, b in zip(one, other, strict=True))
