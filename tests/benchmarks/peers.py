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
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.measure import print_table, print_verdict, run, write_photographs

PHOTOGRAPHS, EPOCHS, VIEWS = 2000, 15, 4  # of the cost that is told
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
SHARED = ["--threads", "2", "--batch-size", "64", "--device", "cpu"]


class Line(NamedTuple):
    """CPU seconds of a program."""

    start: float
    image: float  # one more image, seen once

    def cost(self, images: int) -> float:
        """Return the cost of so many."""
        return self.start + images * self.image


def line_through(program: Callable[[int], list[str]], sizes: tuple[int, int], images: int) -> Line:
    """Return the line through the costs of a program at two sizes, of which each takes so many images more."""
    few, more = (cpu_seconds(program(size)) for size in sizes)
    image = (more - few) / ((sizes[1] - sizes[0]) * images)
    return Line(few - sizes[0] * images * image, image)


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
    count, epochs = (64, (1, 2)) if toy else (320, (1, 4))
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

        def loop(views: str) -> Callable[[int], list[str]]:
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

        store = line_through(embed, (count // 5, count), 1)
        lines = {"ours": line_through(distill, epochs, count)}
        lines |= {
            "`ImageFolder`, live teacher": line_through(loop("image-folder"), epochs, count),
            "DALI, live teacher": line_through(loop("dali"), epochs, count),
        }
        if (PEERS / "installed").is_file():
            lines["LightlyTrain"] = line_through(lightly, epochs, count)
        else:
            print(f"LightlyTrain is left out: `make {PEERS.name}/installed` was not run.\n")
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
