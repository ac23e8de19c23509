"""Distillation against its unavoidable parts.

CPU time per image of `distill`, without its start and its checkpoints, against a bare training loop of the same student
(forward, backward and step of SGD on images that are there, in the better memory format) and a bare DALI pipeline that
renders the views, with nothing of ours in it. CompRess-1q with a bank of 256 rows, ResNet-18 at 64 pixels, batches of
64, one thread; one student, and eight that share one stream of images. `distill` has the better memory format, too.
"""

import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from compress_ssl.pipeline.common.allocator import keep_freed_memory
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.run import distill_together
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.networks.architectures import build_backbone
from tests.benchmarks.measure import Way, cpu_seconds, cpu_turns, print_table, print_verdict, run, write_photographs
from tests.benchmarks.rendering import bare_dali, run_all
from tests.gpu.measure import Pace

ROUNDS = 3
BARE_STEPS = 4
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}  # of --memory-format


def students(folder: Path, name: str, count: int, batch: int, layout: str) -> list[DistillSettings]:
    """Return the settings of students that share one stream of images."""
    given = {"data": folder / "data", "store": folder / "store.zarr", "student": name, "objective": "compress-1q"}
    given |= {"bank_size": 256, "epochs": 1, "batch_size": batch, "memory_format": layout}
    given |= {"device": "cpu", "threads": 1}
    runs = [folder / "runs" / f"{count}-{number}" for number in range(count)]
    return [DistillSettings.model_validate({**given, "run": path}) for path in runs]


def train(folder: Path, name: str, count: int, batch: int, layout: str) -> float:
    """Train students; return the CPU seconds per image."""
    pace = Pace()
    distill_together(students(folder, name, count, batch, layout), pace)
    shutil.rmtree(folder / "runs")
    return pace.cpu_seconds


def bare_training(name: str, batch: int, side: int, layout: str) -> Way:
    """Return some steps of a plain loop."""
    module, features = build_backbone(name, 0)
    head = torch.nn.Linear(features, 128)
    network = torch.nn.Sequential(module, head).to(memory_format=FORMATS[layout])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images = torch.rand(batch, 3, side, side).to(memory_format=FORMATS[layout])

    def steps() -> None:
        torch.use_deterministic_algorithms(False)  # which the stage sets
        for _ in range(BARE_STEPS):
            optimizer.zero_grad(set_to_none=True)
            network(images).square().mean().backward()
            optimizer.step()

    return steps


def main(toy: bool) -> None:
    """Print the parts, and the whole against their sum."""
    images, batch, side, name, many = (16, 4, 32, "conv4-16", 2) if toy else (256, 64, 64, "resnet18", 8)
    keep_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        kind = write_photographs(folder / "data", images)
        teacher = {"teacher": "random/conv4-64", "split": ("train",), "views": 1, "size": side, "resize": side}
        embed(EmbedSettings(data=folder / "data", store=folder / "store.zarr", device="cpu", **teacher), Silent())
        pipeline = bare_dali(folder / "data" / "train", (side,), batch)
        steps = cpu_seconds({layout: bare_training(name, batch, side, layout) for layout in FORMATS}, ROUNDS)
        better, worse = sorted(steps, key=steps.__getitem__)
        step = bare_training(name, batch, side, better)
        ways: dict[str, Way] = {
            "DALI": functools.partial(run_all, pipeline, images // batch),
            "step before": step,
            "1": functools.partial(train, folder, name, 1, batch, better),
            "step between": step,
            str(many): functools.partial(train, folder, name, many, batch, better),
            "step after": step,
        }
        cpu = cpu_turns(ways, 1 if toy else ROUNDS)
    before, between, after = (
        1e3 * cpu[f"step {when}"] / (BARE_STEPS * batch) for when in ("before", "between", "after")
    )
    rendering, one, all_of_them = 1e3 * cpu["DALI"] / images, 1e3 * cpu["1"], 1e3 * cpu[str(many)]
    print(f"{images} {kind}, one epoch of one view; medians of {ROUNDS} turns, ratios within a turn.\n")
    ratios = {
        1: np.median(one / ((before + between) / 2 + rendering)),
        many: np.median(all_of_them / (many * (between + after) / 2 + rendering)),
    }
    slower = 1e3 * steps[worse] / (BARE_STEPS * batch)
    rows = [
        (f"forward, backward, step, `{better}`", f"{np.median([before, between, after]):.2f}", ""),
        (f"the same, `{worse}`", f"{slower:.2f}", ""),
        ("DALI", f"{np.median(rendering):.2f}", ""),
    ]
    for count, taken in ((1, one), (many, all_of_them)):
        name = f"`distill`, {count} student{'s' * (count > 1)}"
        rows.append((name, f"{np.median(taken):.2f}", f"{ratios[count]:.2f}"))
    print_table(("", "CPU ms per image", "÷ parts"), rows)
    print(f"{many} students together ÷ one after the other: {np.median(all_of_them / (many * one)):.2f}.\n")
    for count, ratio in ratios.items():
        print_verdict(f"{count} student{'s' * (count > 1)} ÷ ({count} x step + DALI)", float(ratio), at_most=1.1)


if __name__ == "__main__":
    run(main)
