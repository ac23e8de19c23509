"""The start of a command.

Each command is a process of its own, all in turns, with the modules' compiled files in place. The first rows are the
least that a start can take: Python importing the libraries; "bare" also runs a small network once. `embed` and
`distill` have four images of 32 pixels, so that their first image or step is nearly all that they do. `conv4-16` is a
network of ours; `resnet18` is torchvision's, whose import brings torch's compiler with it. So do torch's optimizers,
and with them all training. Wall seconds are the least of the rounds: what else runs on the machine can only add to
them.

The target for `embed` and `distill` is half of the 1.2 times "bare" that they took before their imports were looked at.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from time import perf_counter

from tests.benchmarks.measure import Cost, print_table, print_verdict, run
from tests.gpu.parts.photographs import photograph, save

ROOT = Path(__file__).parents[2]

BARE = """
import torch, torchvision, nvidia.dali.fn
layers = [torch.nn.Conv2d(3, 16, 3), *(torch.nn.Conv2d(16, 16, 3) for _ in range(3))]
with torch.inference_mode():
    torch.nn.Sequential(*layers)(torch.zeros(4, 3, 32, 32))
"""

IMPORTS = ("torch", "torch, torchvision", "nvidia.dali", "zarr")

EMBED = "embed photographs {0}.zarr --teacher random/{0} --size 32 --resize 32 --views 1 --overwrite"
DISTILL = "distill conv4-16.zarr photographs run --student {} --batch-size 4 --bank-size 4 --epochs 1 --overwrite"

STAGES = {
    f"`{stage.split()[0]}`, {network}": stage.format(network)
    for stage in (EMBED, DISTILL)
    for network in ("conv4-16", "resnet18")
}
OTHERS = ("--version", "--help", "embed --help", "store info", "store list", "store verify", "evaluate knn")


def cost_of_process(arguments: list[str], folder: Path) -> Cost:
    """Return what a process of Python takes; raise ``CalledProcessError`` if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before, begun = getrusage(RUSAGE_CHILDREN), perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, check=True, capture_output=True)
    wall, after = perf_counter() - begun, getrusage(RUSAGE_CHILDREN)
    return Cost(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall)


def main(toy: bool) -> None:
    """Time all commands in turns, after a first turn that compiles the modules; a toy is a few in that first turn."""
    stages = {name: command for name, command in STAGES.items() if not toy or command == EMBED.format("conv4-16")}
    imports = IMPORTS[:1] if toy else IMPORTS
    ways = {"bare": ["-c", BARE]} | {f"`import {names}`": ["-c", f"import {names}"] for names in imports}
    for name, command in stages.items():
        ways[name] = ["-m", "compress_ssl", *command.split()]
    for command in OTHERS[:4] if toy else OTHERS:
        store = [] if "--" in command else ["." if command == "store list" else "conv4-16.zarr"]
        ways[f"`{command}`"] = ["-m", "compress_ssl", *command.split(), *store]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(8):
            split = Path(folder, "photographs", ("train", "val")[number % 2])
            save(split / f"class{number // 4}" / f"{number}.jpg", photograph(number, 40, 40))
        turns = [
            {name: cost_of_process(way, Path(folder)) for name, way in ways.items()} for _ in range(1 if toy else 3)
        ]
    counted = turns[1:] or turns
    cpu = {name: statistics.median(turn[name].cpu for turn in counted) for name in ways}
    wall = {name: min(turn[name].wall for turn in counted) for name in ways}
    print_table(
        ["", "CPU seconds", "wall seconds", "CPU seconds / bare"],
        [[name, f"{cpu[name]:.2f}", f"{wall[name]:.2f}", f"{cpu[name] / cpu['bare']:.2f}"] for name in ways],
    )
    print_verdict("Wall seconds of `--help`", wall["`--help`"], at_most=0.5)
    print_verdict("Wall seconds of `store info`", wall["`store info`"], at_most=1)
    for name in stages:
        print_verdict(f"{name}, CPU seconds / bare", cpu[name] / cpu["bare"], at_most=0.6)


if __name__ == "__main__":
    run(main)
