"""What the store saves: students from a store, and students with a live teacher.

With a live teacher, each step runs the teacher on the view that the student sees; with a store, `embed` has done so
once. The parts of a step are measured one by one, with random weights, in CPU seconds an image of 224 pixels: a view
(DALI), the teacher's forward pass, and the student's step (CompRess-1q with a bank of 4,096 rows: forward, backward,
SGD), on one thread, four or eight images at a time, in one round. Their sums give the rates: view + teacher + student
with a live teacher, view + student with a store. `embed` renders and runs view 0 and 10 random views; it is paid back
when as many forward passes have been saved, of one student or of several. Whole trainings are of 130 epochs, as the
paper's. The last lines compare such a sum with real runs of a small pair at 64 pixels: `embed` and `distill`, and a
plain loop.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from compress_ssl import Batch, CompRess1q, DistillSettings, EmbedSettings, Silent, distill, embed
from compress_ssl.pipeline.common.device import prepare_device
from compress_ssl.pipeline.images.index import ImageIndex, index_images
from compress_ssl.pipeline.images.parameters import fresh_parameters
from compress_ssl.pipeline.images.policies import POLICIES
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.rendering import Renderer, RenderJob, render
from compress_ssl.pipeline.images.sources.open_source import cache_name, open_source
from compress_ssl.pipeline.networks.network import Network, load_network
from tests.benchmarks.measure import Way, cpu_seconds, cpu_turns, print_table, print_verdict, run, write_photographs

Step = Callable[[Tensor, Tensor], None]

ROUNDS, ROUNDS_OF_RUNS = 1, 2
APART = 0.15  # of the sum of the parts and the real runs, as a share


class Pair(NamedTuple):
    """A teacher, a student, and their images."""

    teacher: str
    student: str
    size: int = 224
    batch: int = 8
    bank: int = 4096
    views: int = 10  # random ones in the store
    epochs: int = 130


PAIRS = (
    Pair("resnet50-w4", "resnet50"),  # SimCLR's ResNet-50x4
    Pair("resnet50-w4", "resnet18"),
    Pair("resnet50", "resnet18"),  # MoCo-v2's
    Pair("resnet50", "mobilenet_v2"),
    Pair("resnet50", "alexnet"),
)
SMALL = Pair("resnet34", "resnet18", size=64, batch=32, bank=256, views=2, epochs=4)
TOY = Pair("conv4-32", "conv4-16", size=16, batch=8, bank=64, views=2, epochs=2)


class Parts(NamedTuple):
    """CPU seconds an image."""

    view: float
    teacher: float
    student: float

    @property
    def live(self) -> float:
        """Of a step with a live teacher."""
        return self.view + self.teacher + self.student

    @property
    def stored(self) -> float:
        """Of a step with a store."""
        return self.view + self.student

    def embedding(self, pair: Pair) -> float:
        """Of ``embed``."""
        return (pair.views + 1) * (self.view + self.teacher)

    def total_share(self, pair: Pair) -> float:
        """Of ``embed`` and one training, as a share of that with a live teacher."""
        return (self.embedding(pair) + pair.epochs * self.stored) / (pair.epochs * self.live)


def load(name: str, *, training: bool) -> Network:
    """Return an untrained network."""
    network = load_network(f"random/{name}")
    network.module.train(training).to(memory_format=torch.channels_last)
    return network


def student_step(pair: Pair, teacher_dim: int) -> Step:
    """Return what takes a step with images (B, S, S, 3) and the teacher's embeddings (B, D) of them."""
    student = load(pair.student, training=True)
    objective = CompRess1q(student.module, teacher_dim=teacher_dim, bank_size=pair.bank)
    optimizer = torch.optim.SGD([*student.module.parameters(), *objective.parameters()], lr=0.01, momentum=0.9)

    def step(pixels: Tensor, embeddings: Tensor) -> None:
        loss, _ = objective(student.module, Batch(student.preprocessing.normalize(pixels), embeddings))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(student.module)

    return step


def teacher_pass(teacher: Network, pixels: Tensor) -> Tensor:
    """Return the teacher's embeddings (B, D), L2-normalised."""
    with torch.inference_mode():
        embeddings = normalize(teacher.features(pixels), dim=1)
    return embeddings.clone()


def epoch_of_views(index: ImageIndex, pair: Pair, epoch: int) -> RenderJob:
    """Return the job of one random view of every image, in random order."""
    samples = index.samples
    parameters = fresh_parameters(POLICIES["crop-flip"], pair.size, 0, epoch + 1, samples.image_size)
    rows = np.random.default_rng(epoch).permutation(len(samples))
    return RenderJob.of(index.source, samples, rows, parameters=parameters[rows, None], sizes=(pair.size,))


def measured(pair: Pair, index: ImageIndex, renderer: Renderer, rounds: int) -> Parts:
    """Measure the parts of a step."""
    teacher = load(pair.teacher, training=False)
    pixels = torch.randint(0, 256, (pair.batch, pair.size, pair.size, 3), dtype=torch.uint8)
    embeddings = normalize(torch.randn(pair.batch, teacher.feature_dim), dim=1)
    step, job = student_step(pair, teacher.feature_dim), epoch_of_views(index, pair, 0)
    ways: dict[str, Way] = {
        "view": lambda: list(render(renderer, job, pair.batch)),
        "teacher": lambda: teacher_pass(teacher, pixels[: pair.batch // 2]),
        "student": lambda: step(pixels, embeddings),
    }
    cpu = cpu_seconds(ways, rounds)
    images = {"view": len(index.samples), "teacher": pair.batch // 2, "student": pair.batch}
    return Parts(*(cpu[name] / images[name] for name in ways))


def live_loop(pair: Pair, index: ImageIndex, renderer: Renderer) -> None:
    """Train a student with a live teacher."""
    teacher = load(pair.teacher, training=False)
    step = student_step(pair, teacher.feature_dim)
    for epoch in range(pair.epochs):
        for (pixels,) in render(renderer, epoch_of_views(index, pair, epoch), pair.batch):
            if len(pixels) == pair.batch:
                step(pixels, teacher_pass(teacher, pixels))


def store_runs(pair: Pair, data: Path) -> None:
    """Embed, and train a student; the index is there."""
    shared = {"threads": torch.get_num_threads(), "batch_size": pair.batch, "renderer": "dali"}
    shared |= {"data": data, "overwrite": True}
    place, teacher = data.parent / "store.zarr", f"random/{pair.teacher}"
    sizes = {"size": pair.size, "resize": pair.size, "views": pair.views, "split": ("train",)}
    embed(EmbedSettings(store=place, teacher=teacher, **sizes, **shared), Silent())
    settings = {"objective": "compress-1q", "bank_size": pair.bank, "epochs": pair.epochs, "head": "linear"}
    distill(DistillSettings(store=place, run=data.parent / "run", student=pair.student, **settings, **shared), Silent())


def row_of(pair: Pair, parts: Parts) -> list[str]:
    """Return a row of the table."""
    return [
        f"{pair.teacher} → {pair.student}",
        ", ".join(f"{1e3 * part:.0f}" for part in parts),
        f"{parts.live / parts.stored:.1f}",
        f"{parts.embedding(pair) / parts.teacher:.1f}",
        f"{parts.embedding(pair) / (pair.epochs * parts.teacher):.2f}",
        f"{parts.total_share(pair):.2f}",
    ]


def main(toy: bool) -> None:
    """Print the table, and the check of its sums."""
    prepare_device("cpu", 1, training=True)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_photographs(data, 64 if toy else 256)
        source = open_source(data, "train", data)
        cache = Path(folder) / "index" / f"{cache_name(source.location)}.npz"
        index = index_images(source, source.listing(), cache, threads=1, progress=Silent())
        renderer = make_renderer("dali", torch.device("cpu"), 1)
        rows = [row_of(pair, measured(pair, index, renderer, ROUNDS)) for pair in ((TOY,) if toy else PAIRS)]
        columns = ["pair", "view, teacher, student: CPU ms an image", "rate, store ÷ live", "paid back after epochs"]
        print_table([*columns, "after students of 130 epochs", "one student in all, store ÷ live"], rows)
        small = TOY if toy else SMALL
        by_sum = measured(small, index, renderer, 1 if toy else 9).total_share(small)
        runs: dict[str, Way] = {
            "store": lambda: store_runs(small, data),
            "live": lambda: live_loop(small, index, renderer),
        }
        cpu = cpu_turns(runs, 1 if toy else ROUNDS_OF_RUNS)
    by_runs = float(np.median(cpu["store"] / cpu["live"]))
    print(f"{small.teacher} → {small.student}, {small.epochs} epochs of {small.views} views: store ÷ live", end=" ")
    print(f"{by_sum:.2f} by the sum, {by_runs:.2f} by the runs.\n")
    print_verdict("the runs' ratio and the sum's apart, as a share", abs(by_runs / by_sum - 1), at_most=APART)


if __name__ == "__main__":
    run(main)
