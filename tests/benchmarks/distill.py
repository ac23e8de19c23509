"""Distillation against its unavoidable parts.

CPU time per image of `distill`, without its start and its checkpoints, against a bare training loop of the same student
(forward, backward and step of SGD on images that are there) and a bare DALI pipeline that renders the views, with
nothing of ours in it. CompRess-1q with a bank of 2,048 rows, ResNet-18 at 64 pixels, batches of 64, one thread; one
student, and eight that share one stream of images.
"""

import functools
import shutil
import tempfile
from pathlib import Path

import torch

from compress_ssl.pipeline.common.allocator import keep_freed_memory
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.run import distill_together
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.networks.architectures import build_backbone
from tests.benchmarks.measure import Way, cpu_seconds, print_table, print_verdict, run, write_photographs
from tests.benchmarks.rendering import bare_dali, run_all
from tests.gpu.measure import Pace

ROUNDS = 2
BARE_STEPS = 4


def students(folder: Path, name: str, count: int, batch: int) -> list[DistillSettings]:
    """Return the settings of students that share one stream of images."""
    given = {"data": folder / "data", "store": folder / "store.zarr", "student": name, "objective": "compress-1q"}
    given |= {"bank_size": 2048, "epochs": 1, "batch_size": batch, "device": "cpu", "threads": 1}
    runs = [folder / "runs" / f"{count}-{number}" for number in range(count)]
    return [DistillSettings.model_validate({**given, "run": path}) for path in runs]


def train(folder: Path, name: str, count: int, batch: int) -> float:
    """Train students; return the CPU seconds per image."""
    pace = Pace()
    distill_together(students(folder, name, count, batch), pace)
    shutil.rmtree(folder / "runs")
    return pace.cpu_seconds


def bare_training(name: str, batch: int, side: int) -> Way:
    """Return some steps of a plain loop."""
    module, features = build_backbone(name, 0)
    head = torch.nn.Linear(features, 128)
    network = torch.nn.Sequential(module, head).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images = torch.rand(batch, 3, side, side).to(memory_format=torch.channels_last)

    def steps() -> None:
        for _ in range(BARE_STEPS):
            optimizer.zero_grad(set_to_none=True)
            network(images).square().mean().backward()
            optimizer.step()

    return steps


def main(toy: bool) -> None:
    """Print the parts, and the whole against their sum."""
    images, batch, side, name, many = (16, 4, 32, "conv4-16", 2) if toy else (384, 64, 64, "resnet18", 8)
    keep_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        kind = write_photographs(folder / "data", images)
        teacher = {"teacher": "random/conv4-64", "split": ("train",), "views": 1, "size": side, "resize": side}
        embed(EmbedSettings(data=folder / "data", store=folder / "store.zarr", device="cpu", **teacher), Silent())
        pipeline = bare_dali(folder / "data" / "train", (side,), batch)
        ways: dict[str, Way] = {
            "forward, backward, step": bare_training(name, batch, side),
            "DALI": functools.partial(run_all, pipeline, images // batch),
            "`distill`, 1 student": functools.partial(train, folder, name, 1, batch),
            f"`distill`, {many} students": functools.partial(train, folder, name, many, batch),
        }
        cpu = list(cpu_seconds(ways, ROUNDS).values())
    step, rendering, one, all_of_them = (
        1e3 * each for each in (cpu[0] / (BARE_STEPS * batch), cpu[1] / images, *cpu[2:])
    )
    print(f"{images} {kind}, one epoch of one view.\n")
    ratios = {1: one / (step + rendering), many: all_of_them / (many * step + rendering)}
    rows = [("forward, backward, step", f"{step:.2f}", ""), ("DALI", f"{rendering:.2f}", "")]
    for count, taken in ((1, one), (many, all_of_them)):
        rows.append((f"`distill`, {count} student{'s' * (count > 1)}", f"{taken:.2f}", f"{ratios[count]:.2f}"))
    print_table(("", "CPU ms per image", "÷ parts"), rows)
    print(f"{many} students together ÷ one after the other: {all_of_them / (many * one):.2f}.\n")
    for count, ratio in ratios.items():
        print_verdict(f"{count} student{'s' * (count > 1)} ÷ ({count} x step + DALI)", ratio, at_most=1.1)


if __name__ == "__main__":
    run(main)
