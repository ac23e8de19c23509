"""Other programs.

A ResNet-18 learns from a ResNet-18: both untrained, 64 pixels, float32, batches of 64, two threads. So small a teacher
is the least that a store can save. *Ours* is `embed` with four random views, then `distill` with CompRess-1q. The
others run the teacher in every step: LightlyTrain 0.18 (`method="distillation"`; `make .venv-peers/installed`), and two
loops in torch with CompRess-1q's loss (tests/benchmarks/live_loop.py): on torchvision's `ImageFolder` with a
`DataLoader`, and on DALI's `DALIGenericIterator` as in NVIDIA's example. Each runs as a program of its own with little
and with more to do. The line through both gives the CPU seconds of a start and of an image, and these the cost of
2,000 photographs in 15 epochs, of one student and of another after it.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.measure import print_table, print_verdict, run, write_photographs

PHOTOGRAPHS, EPOCHS, VIEWS = 2000, 15, 4  # of the cost that is told
ROUNDS = 2
PEERS = Path(__file__).parents[2] / ".venv-peers"
LIGHTLY_PROGRAM = """
import sys, timm, lightly_train
data, out, epochs = sys.argv[1:]
lightly_train.pretrain(
    out=out, data=data, model="torchvision/resnet18", method="distillation", epochs=int(epochs), batch_size=64,
    method_args={"teacher": timm.create_model("resnet18", pretrained=False)}, transform_args={"image_size": (64, 64)},
    accelerator="cpu", devices=1, precision="32-true", num_workers=0, overwrite=True,
)
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}
OURS = [sys.executable, "-m", "compress_ssl"]
SHARED = ["--threads", "2", "--batch-size", "64", "--device", "cpu", "--overwrite"]


class Line(NamedTuple):
    """CPU seconds of a program."""

    start: float
    image: float  # one more image, seen once

    def cost(self, images: int) -> float:
        """Return the cost of so many."""
        return self.start + images * self.image


Program = Callable[[int], list[str]]  # returns the command for a size


def lines_through(programs: Mapping[str, tuple[Program, tuple[int, int], int]], rounds: int) -> dict[str, Line]:
    """Return the line through the median costs of each program at two sizes; all are run in turns.

    Args:
        programs: Each with its sizes, and the images that one more of a size takes.
    """
    runs = {(name, size): program(size) for name, (program, sizes, _) in programs.items() for size in sizes}
    turns = [{run: cpu_seconds(command) for run, command in runs.items()} for _ in range(rounds)]
    cpu = {run: statistics.median(turn[run] for turn in turns) for run in runs}
    lines = {}
    for name, (_, (few, more), images) in programs.items():
        image = (cpu[name, more] - cpu[name, few]) / ((more - few) * images)
        lines[name] = Line(cpu[name, few] - few * images * image, image)
    return lines


def cpu_seconds(command: list[str]) -> float:
    """Return the CPU seconds of a program and its children.

    Raises:
        RuntimeError: If it fails; with what it said last.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=ENVIRONMENT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{command[:3]} ended with {process.returncode}: {said.read()[-2000:].decode()}")
    return used.ru_utime + used.ru_stime


def main(toy: bool) -> None:
    """Print the table and the verdict."""
    count, epochs = (64, (1, 2)) if toy else (960, (1, 2))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_photographs(data, count)

        def embed(images: int) -> list[str]:
            options = ["--size", "64", "--resize", "64", "--views", str(VIEWS), "--split", "train", *SHARED]
            place = f"{folder}/{images}.zarr"
            return [*OURS, "embed", str(data), place, "--teacher", "random/resnet18", "--limit", str(images), *options]

        def distill(epochs: int) -> list[str]:
            options = ["--student", "resnet18", "--objective", "compress-1q", "--bank-size", "256", *SHARED]
            run = f"{folder}/ours-{epochs}"
            return [*OURS, "distill", f"{folder}/{count}.zarr", str(data), run, "--epochs", str(epochs), *options]

        def loop(views: str) -> Program:
            program = [sys.executable, "-m", "tests.benchmarks.live_loop", views, str(data)]
            return lambda epochs: [*program, str(epochs)]

        def lightly(epochs: int) -> list[str]:
            return [
                str(PEERS / "bin" / "python"),
                "-c",
                LIGHTLY_PROGRAM,
                str(data / "train"),
                f"{folder}/lightly",
                str(epochs),
            ]

        programs: dict[str, tuple[Program, tuple[int, int], int]] = {
            "our `embed`": (embed, (count // 5, count), 1),
            "ours": (distill, epochs, count),
            "`ImageFolder`, live teacher": (loop("image-folder"), epochs, count),
            "DALI, live teacher": (loop("dali"), epochs, count),
        }
        if (PEERS / "installed").is_file():
            programs["LightlyTrain"] = (lightly, epochs, count)
        else:
            print(f"LightlyTrain is left out: `make {PEERS.name}/installed` was not run.\n")
        lines = lines_through(programs, 1 if toy else ROUNDS)
    store = lines.pop("our `embed`")
    each = {name: line.cost(PHOTOGRAPHS * EPOCHS) for name, line in lines.items()}
    first = each | {"ours": each["ours"] + store.cost(PHOTOGRAPHS)}
    rows = [
        [name, f"{line.start:.1f}", f"{1e3 * line.image:.1f}", f"{first[name]:.0f}", f"{each[name]:.0f}"]
        for name, line in lines.items()
    ]
    rows.insert(
        0, ["our `embed`", f"{store.start:.1f}", f"{1e3 * store.image:.1f}", f"{store.cost(PHOTOGRAPHS):.0f}", ""]
    )
    columns = [
        "program",
        "start, CPU s",
        "CPU ms an image",
        "2,000 photographs, 15 epochs: CPU s",
        "another student: CPU s",
    ]
    print_table(columns, rows)
    for what, costs in (("one student", first), ("another student", each)):
        least = min(cost for name, cost in costs.items() if name != "ours")
        print_verdict(f"CPU time of {what}, ours ÷ the fastest of the others", costs["ours"] / least, at_most=1)


if __name__ == "__main__":
    run(main)
