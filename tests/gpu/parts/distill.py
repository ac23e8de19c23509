"""Stage two against the CPU: every objective; then what may change its losses by rounding only."""

import os
from typing import Any, get_args

from compress_ssl.pipeline.distill.settings import DistillSettings
from tests.gpu.run import Run
from tests.gpu.stages import apart, distill_settings, losses, stored
from tests.pipeline.distill.kinds import KINDS

MOST_APART = 0.01  # of the losses, relative; six steps in another memory format of a CPU are 0.001 apart, seeds 0.15
MOST_APART_OF = {"crd": 0.05, "crd-queue": 0.05, "cc": 0.1, "1q-k-means": 0.1, "1q-random": 0.02}
"""Of kinds with random numbers of the device, centres that a tie moves, or a bank in half precision."""
TOY_KINDS = ("2q", "cc", "two teachers")


def distill_equal(run: Run) -> None:
    """Every kind of student on both devices, from the same pixels, all in float32."""
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # read by cuBLAS and cuDNN when they begin
    stored(run, "small")
    stored(run, "second")
    further = {
        "accumulation": {"accumulation": 4},
        "two teachers": {"also_store": [str(run.folder / "second.zarr")]},
        "fresh views": {"student_view": "fresh"},
    }
    kinds = {**KINDS, **further}
    for kind in TOY_KINDS if run.toy else kinds:
        given = kinds[kind]
        with run.attempt(f"{kind} as on the CPU"):
            here, there = (
                losses(distill_settings(run, f"{kind}-{device}".replace(" ", "-"), device=device, **given))
                for device in (run.device, "cpu")
            )
            most = MOST_APART_OF.get(kind, MOST_APART)
            run.check(f"{kind} as on the CPU", apart(there, here) < most, apart=apart(there, here), losses=here)


def distill_variants(run: Run) -> None:
    """What may change the losses by rounding only: where the teacher's views are, precision, compiling, layout."""
    stored(run, "small")
    base = losses(distill_settings(run, "base"))
    tiers = get_args(DistillSettings.model_fields["teacher_memory"].annotation)
    variants: dict[str, tuple[float, dict[str, Any]]] = {
        **{f"teacher in {tier}": (0.01, {"teacher_memory": tier}) for tier in tiers},
        "precision bfloat16": (0.05, {"precision": "bfloat16"}),
        "precision float16": (0.5, {"precision": "float16"}),  # whose loss scaling begins with a step or two left out
        **{f"banks in {each}": (0.05, {"bank_precision": each}) for each in ("bfloat16", "float16")},
        "contiguous": (0.01, {"memory_format": "contiguous"}),
        "compiled": (0.02, {"compile": True}),
        "rendered by DALI": (0.05, {"renderer": "dali"}),
    }
    for name, (most, given) in variants.items():
        if run.toy and name == "compiled":  # half a minute
            continue
        with run.attempt(name):
            found = losses(distill_settings(run, name.replace(" ", "-"), **given))
            run.check(name, apart(base, found) < most, apart=apart(base, found))
