"""Students of every objective."""

from typing import Any

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
}
"""Students of 29 images, each other than the default in what it keeps."""
