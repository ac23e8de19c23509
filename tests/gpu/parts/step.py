"""Training: images a second, against a live teacher's; where the host waits; the kernels."""

import collections
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from compress_ssl.pipeline.distill import replay
from compress_ssl.pipeline.distill.run import distill
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.images.rendering import Renderer, RenderJob
from tests.gpu.measure import Pace
from tests.gpu.parts.forward import embedder_of, forward_pace
from tests.gpu.run import Run
from tests.gpu.stages import distill_settings, stored


def step(run: Run) -> None:
    """Students trained from the store of R50x4; the fastest of them from pixels that are there already, too."""
    stored(run, "many")
    teacher = embedder_of(run, "conv4-16" if run.toy else "resnet50-w4")
    teacher_pace = forward_pace(run, teacher, teacher.batch_size)
    students = ("conv4-16",) if run.toy else ("resnet18", "mobilenet_v2", "resnet50")
    for student in students:
        with run.attempt(f"training of {student}"):
            pace = training_pace(run, student=student)
            live = 1 / (1 / pace + 1 / teacher_pace)
            run.measured(f"training of {student}", images_per_second=pace, with_a_live_teacher=live, times=pace / live)
    with run.attempt("training without rendering"), patch.object(replay, "render_batches", pixels_at_hand):
        for given in ({}, {"objective": "compress-1q"}, {"precision": "float32"}):
            pace = training_pace(run, student=students[0], **given)
            run.measured(f"training of {students[0]}, pixels at hand", images_per_second=pace, **given)
    with run.attempt("host waits"):
        host_waits(run)
    with run.attempt("profile"):
        kernels(run)


def settings_of(run: Run, name: str, **given: Any) -> DistillSettings:
    size = {"batch_size": 8, "bank_size": 16} if run.toy else {"batch_size": 256, "bank_size": 12_800}
    return distill_settings(
        run,
        name,
        store=run.folder / "many.zarr",
        data=run.folder / "many",
        renderer="dali",
        **({"precision": "auto"} | size | given),
    )


def training_pace(run: Run, **given: Any) -> float:
    """Return the images per second of two epochs, without what comes before the first steps."""
    pace = Pace()
    distill(settings_of(run, "pace", **given), pace)
    return pace.per_second


def pixels_at_hand(renderer: Renderer, batches: Iterable[RenderJob], batch_size: int) -> Iterator[list[Tensor]]:
    """Yield the same pixels for every batch, in place of ``render_batches``."""
    pixels: list[Tensor] = []
    for batch in batches:
        shapes = [(batch_size, side, side, 3) for side in batch.sizes]
        pixels = pixels or [torch.randint(0, 256, shape, dtype=torch.uint8, device=renderer.device) for shape in shapes]
        yield pixels


def host_waits(run: Run) -> None:
    """Count where the host waits for the GPU in an epoch; no line may do so at every step."""
    if run.device == "cpu":
        return
    steps = len(stored(run, "many")["train"]) // 256
    waits = waits_of(run, epochs=2)
    waits.subtract(waits_of(run, epochs=1))  # of what comes before the first step
    for place, count in waits.most_common(15):
        run.check(f"host waits at {place}", count < steps, count=count, steps=steps)
    run.measured("host waits of an epoch", a_step=sum(waits.values()) / steps)


def waits_of(run: Run, epochs: int) -> collections.Counter[str]:
    """Count the waits that torch sees in a training, by line."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        distill(settings_of(run, "waits", epochs=epochs), Pace())
        torch.cuda.set_sync_debug_mode("default")
    return collections.Counter(
        f"{Path(each.filename).parent.name}/{Path(each.filename).name}:{each.lineno}"
        for each in heard
        if "synchroniz" in str(each.message).lower()
    )


def kernels(run: Run) -> None:
    """Write the tables of torch's profiler; report the launches, the waits, and the GPU's busy share."""
    on_gpu = run.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    pace = Pace()
    with profile(activities=activities) as seen:
        distill(settings_of(run, "profiled", epochs=1), pace)
    events = seen.key_averages()
    columns = ("self_device_time_total", "self_cpu_time_total") if on_gpu else ("self_cpu_time_total",)
    tables = [events.table(sort_by=column, row_limit=25) for column in columns]
    (run.folder / "profile.txt").write_text("\n".join(tables), encoding="utf-8")
    counts = {
        name: sum(each.count for each in events if word in each.key)
        for name, word in {"launches": "LaunchKernel", "waits": "Synchronize"}.items()
    }
    busy = sum(each.self_device_time_total for each in events) / 1e6 / pace.seconds
    run.measured("profile", **counts, busy_share=float(busy), seconds=pace.seconds, tables="profile.txt")
