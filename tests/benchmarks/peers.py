"""Other programs.

A ResNet-18 learns from a ResNet-18: both untrained, 64 pixels, float32, batches of 64, two threads. So small a teacher
is the least that a store can save. *Ours* is `embed` with four random views, then `distill` with CompRess-1q, in the
memory format of the others (`contiguous`). Those run the teacher in every step: LightlyTrain 0.18
(`method="distillation"`; `make .venv-peers/installed`), and two loops in torch with CompRess-1q's loss
(tests/benchmarks/live_loop.py): on torchvision's `ImageFolder` with a `DataLoader`, and on DALI's
`DALIGenericIterator` as in NVIDIA's example. Each runs as a program of its own with little and with more to do, and
all of them take turns, a second each. The line through both gives the CPU seconds of a start and of an image, and these
the cost of 2,000 photographs in 15 epochs, of one student and of another after it.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from tests.benchmarks.measure import print_table, print_verdict, run, write_photographs

PHOTOGRAPHS, EPOCHS, VIEWS = 2000, 15, 4  # of the cost that is told
SLICE_SECONDS = 1.0
STORE, OUR_STUDENT = "our `embed`", "ours"
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
Key = TypeVar("Key")


def lines_through(programs: Mapping[str, tuple[Program, tuple[int, int], int]]) -> dict[str, Line]:
    """Return the line through the costs of each program at two sizes.

    Args:
        programs: Each with its sizes, and the images that one more of a size takes. Of a single size, as in a toy,
            all of the cost is the start's.
    """
    cpu = cpu_seconds({(name, size): program(size) for name, (program, sizes, _) in programs.items() for size in sizes})
    lines = {}
    for name, (_, (few, more), images) in programs.items():
        image = (cpu[name, more] - cpu[name, few]) / ((more - few) * images) if more > few else 0.0
        lines[name] = Line(cpu[name, few] - few * images * image, image)
    return lines


def cpu_seconds(commands: Mapping[Key, list[str]]) -> dict[Key, float]:
    """Return the CPU seconds of each program with its children.

    They are started at once, but only one runs at a time, a second each in turns: programs that run one after the other
    see a shared machine at different speeds.

    Raises:
        RuntimeError: If one fails; with what it said last.
    """
    used: dict[Key, float] = {}
    with contextlib.ExitStack() as stack:
        running = {key: stack.enter_context(stopped(command)) for key, command in commands.items()}
        while running:
            for key, (process, said) in list(running.items()):
                os.killpg(process, signal.SIGCONT)
                with open(os.pidfd_open(process), "rb") as ending:
                    has_ended = select.select([ending], [], [], SLICE_SECONDS)[0]
                os.killpg(process, signal.SIGSTOP)
                if has_ended:
                    _, status, usage = os.wait4(process, 0)
                    used[key] = usage.ru_utime + usage.ru_stime
                    del running[key]
                    if status:
                        said.seek(0)
                        raise RuntimeError(f"{commands[key][:3]} failed: {said.read()[-2000:].decode()}")
    return used


@contextlib.contextmanager
def stopped(command: list[str]) -> Iterator[tuple[int, IO[bytes]]]:
    """Start a program and stop it; yield its process group and its output; kill what is left of it afterwards."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env=ENVIRONMENT, start_new_session=True
        )
        os.killpg(process.pid, signal.SIGSTOP)
        try:
            yield process.pid, said
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def embed(data: Path, store: Path, images: int) -> list[str]:
    """Return the command that makes a store of the first images."""
    options = ["--size", "64", "--resize", "64", "--views", str(VIEWS), "--split", "train", *SHARED]
    return [*OURS, "embed", str(data), str(store), "--teacher", "random/resnet18", "--limit", str(images), *options]


def programs_of(
    data: Path, store: Path, counts: tuple[int, int], epochs: tuple[int, int]
) -> dict[str, tuple[Program, tuple[int, int], int]]:
    """Return the programs, as ``lines_through`` takes them, for a dataset beside its store.

    Args:
        data: The dataset.
        store: Its store.
        counts: Photographs of it that ``embed`` takes: some, and all.
        epochs: Epochs of the others.
    """
    count = counts[1]

    def distill(epochs: int) -> list[str]:
        options = ["--student", "resnet18", "--objective", "compress-1q", "--bank-size", "256"]
        options += ["--memory-format", "contiguous", *SHARED]
        run = f"{data.parent}/ours-{epochs}"
        return [*OURS, "distill", str(store), str(data), run, "--epochs", str(epochs), *options]

    def loop(views: str) -> Program:
        return lambda epochs: [sys.executable, "-m", "tests.benchmarks.live_loop", views, str(data), str(epochs)]

    def lightly(epochs: int) -> list[str]:
        program = [f"{PEERS}/bin/python", "-c", LIGHTLY_PROGRAM]
        return [*program, f"{data}/train", f"{data.parent}/lightly-{epochs}", str(epochs)]

    programs: dict[str, tuple[Program, tuple[int, int], int]] = {
        STORE: (lambda images: embed(data, store.parent / str(images) / store.name, images), counts, 1),
        OUR_STUDENT: (distill, epochs, count),
        "`ImageFolder`, live teacher": (loop("image-folder"), epochs, count),
        "DALI, live teacher": (loop("dali"), epochs, count),
        "LightlyTrain": (lightly, epochs, count),
    }
    if not (PEERS / "installed").is_file():
        print(f"LightlyTrain is left out: `make {PEERS.name}/installed` was not run.\n")
        del programs["LightlyTrain"]
    return programs


def main(toy: bool) -> None:
    """Print the table and the verdict."""
    counts, epochs = ((16, 64), (1, 1)) if toy else ((192, 960), (1, 2))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_photographs(data, counts[1])
        store = Path(folder) / "store.zarr"
        subprocess.run(embed(data, store, counts[1]), check=True, capture_output=True, env=ENVIRONMENT)
        lines = lines_through(programs_of(data, store, counts, epochs))
    embedding = lines[STORE].cost(PHOTOGRAPHS)
    another = {name: line.cost(PHOTOGRAPHS * EPOCHS) for name, line in lines.items() if name != STORE}
    one = another | {OUR_STUDENT: another[OUR_STUDENT] + embedding}
    rows = [
        [
            name,
            f"{line.start:.1f}",
            f"{1e3 * line.image:.1f}",
            f"{one.get(name, embedding):.0f}",
            f"{another[name]:.0f}" if name in another else "",
        ]
        for name, line in lines.items()
    ]
    total = f"{PHOTOGRAPHS:,} photographs, {EPOCHS} epochs: CPU s"
    print_table(["program", "start, CPU s", "CPU ms an image", total, "another student: CPU s"], rows)
    for what, costs in (("one student", one), ("another student", another)):
        least = min(cost for name, cost in costs.items() if name != OUR_STUDENT)
        print_verdict(f"CPU time of {what}, ours ÷ the fastest of the others", costs[OUR_STUDENT] / least, at_most=1)


if __name__ == "__main__":
    run(main)
