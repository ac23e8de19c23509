"""Time and memory by the size of the data.

Each stage is measured once at each of three sizes, by a process of its own: CPU seconds, and the most memory above that
at its start. An exponent is the slope of the line through the logarithms: 1 if a cost grows as the size does, 0 if it
stays. N are images, V random views, D features, K rows of the bank. `index` and `embed` read photographs of 16 pixels;
the other stages a synthetic store, whose images are there under their paths. `start` is what `distill` does before its
first step: stores, images, the teacher's view, the epoch's order, the first batch. `step` are eight steps of
CompRess-1q with 64 images, without a network.

The last table is of a synthetic store of 8 features, view 0 and one random view; `--rows 10000000` makes it larger.
"""

import argparse
import functools
import math
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from torch import nn
from torch.nn.functional import normalize

import compress_ssl.pipeline.evaluate.knn.evaluate
import compress_ssl.pipeline.images.renderers.dali  # noqa: F401 loaded before anything is measured
from compress_ssl import Batch, CompRess1q, DistillSettings, EmbedSettings, KnnSettings, Silent, embed, evaluate
from compress_ssl.pipeline.common.device import prepare_device
from compress_ssl.pipeline.distill.inputs import open_inputs
from compress_ssl.pipeline.distill.replay import Replay
from compress_ssl.pipeline.distill.teacher_views import TeacherViews
from compress_ssl.pipeline.embed.plan import missing_blocks
from compress_ssl.pipeline.images.index import index_images
from compress_ssl.pipeline.images.parameters import draw_parameters
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.storage import Samples, SplitPlan, describe, open_store
from compress_ssl.storage.parameters import COLUMNS
from compress_ssl.storage.schema import default_block_rows
from compress_ssl.storage.tools.spread import embedding_spread
from compress_ssl.storage.tools.verify import verify_store
from compress_ssl.storage.writer import StoreWriter, create_store
from tests.benchmarks.measure import cost_of, peak_memory, print_table, print_verdict
from tests.gpu.parts.photographs import photograph, save

SIZES = {
    "photographs": (1_000, 4_000, 16_000),
    "N": (20_000, 80_000, 320_000),
    "V": (1, 4, 16),
    "D": (64, 256, 1024),
    "K": (8_000, 32_000, 128_000),
}
TOY = {"photographs": (100, 200), "N": (100, 200), "V": (1, 2), "D": (8, 16), "K": (100, 200)}
SIDE, PER_CLASS, BATCH, STEPS = 16, 1000, 64, 8
BLOCK = 256  # rows of a block of `embed`, for which its memory depends on the block, not on the dataset
MANY, FEW, FAR = 1_000_000, 8, 100_000_000  # rows and features of the last table; rows that it is extrapolated to
MOST_MEMORY, MOST_TIME = 0.1, 1.1  # exponents: of embed's memory by N, of any stage's time


class Taken(NamedTuple):
    """What a stage took."""

    cpu: float  # seconds
    memory: int  # bytes, above those before it


def alone(stage: Callable[..., object], *given: Any) -> Taken:
    """Return what a stage takes in a process of its own."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(_taken, (stage, given))


def _taken(stage: Callable[..., object], given: tuple[Any, ...]) -> Taken:
    torch.set_num_threads(1)
    seconds: list[float] = []
    memory = peak_memory(lambda: seconds.append(cost_of(functools.partial(stage, *given)).cpu))
    return Taken(seconds[0], memory)


def write_photographs(folder: Path, count: int) -> None:
    """Write photographs into ``train/CLASS``: those of one class, and hard links to them."""
    for row in range(count):
        path = folder / _path_of(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        if row < PER_CLASS:
            save(path, photograph(row, SIDE, SIDE))
        else:
            path.hardlink_to(folder / _path_of(row % PER_CLASS))


def write_links(folder: Path, count: int) -> None:
    """Write the photographs of one class; the others are links to its folder."""
    write_photographs(folder, min(count, PER_CLASS))
    first = folder / _path_of(0)
    for row in range(PER_CLASS, count, PER_CLASS):
        (folder / _path_of(row)).parent.symlink_to(first.parent)


def _path_of(row: int) -> str:
    return f"train/{row // PER_CLASS:05d}/{row % PER_CLASS:03d}.jpg"


def write_store(place: Path, images: int, features: int, views: int) -> None:
    """Write a store of noise for the images beside it; those of the first class are the split ``val`` as well."""
    photographs = sorted((place.parent / _path_of(0)).parent.iterdir())
    content = np.array([xxhash.xxh3_64_intdigest(path.read_bytes()) for path in photographs], np.uint64)
    described: list[dict[str, Any]] = [{"policy": {"name": "evaluation", "resize": SIDE}, "seed": None, "size": SIDE}]
    described += [{"policy": {"name": "crop-flip"}, "seed": 0, "size": SIDE}] * views
    classes = tuple(f"{label:05d}" for label in range(math.ceil(images / PER_CLASS) + 1))
    plans = {}
    for name, count in (("train", images), ("val", min(images, PER_CLASS))):
        samples = Samples(
            sample_path=[_path_of(row).removeprefix("train/") for row in range(count)],
            label=(np.arange(count) // PER_CLASS).astype(np.int32),
            image_size=np.full((count, 2), SIDE, np.int32),
            content_hash=np.resize(content, count),
            status=np.zeros(count, np.uint8),
            class_names=classes,
        )
        rows = default_block_rows(count, features)
        plans[name] = SplitPlan(samples, "train", described, COLUMNS, features, rows)
    create_store(place, {"teacher": {"name": "noise"}, "data_set": {"name": "noise"}}, plans)
    writer, noise = StoreWriter(place), np.random.default_rng(0)
    for name, plan in plans.items():
        for block in range(writer.store[name].block_count):
            rows = writer.store[name].block_slice(block)
            sizes = plan.samples.image_size[rows]
            for view, description in enumerate(described):
                drawn = draw_parameters(view, description, np.arange(rows.start, rows.start + len(sizes)), sizes)
                writer.write_block(name, block, view, noise.standard_normal((len(drawn), features), np.float32), drawn)
    writer.finish()


def synthetic(folder: Path, images: int, features: int, views: int) -> Path:
    """Return a store, written unless it is there."""
    data = folder / f"{images}-{features}-{views}"
    if not data.exists():
        write_links(data, images)
        alone(write_store, data / "store.zarr", images, features, views)
    return data / "store.zarr"


def index(data: Path) -> None:
    """Index photographs."""
    source = open_source(data, "train", data)
    index_images(source, source.listing(), data / "index.npz", threads=1, progress=Silent())


def embed_views(data: Path, views: int) -> None:
    """Embed photographs, and index them."""
    settings = {"size": SIDE, "resize": SIDE, "threads": 1, "batch_size": BATCH, "block_rows": BLOCK, "views": views}
    with tempfile.TemporaryDirectory(dir=data.parent) as folder:
        place = Path(folder) / "store.zarr"
        embed(EmbedSettings(data=data, store=place, teacher="random/conv4-16", split=("train",), **settings), Silent())


def open_rows(place: Path) -> None:
    """Open a store, and read the paths and labels of its images."""
    for split in open_store(place).splits:
        len(split.samples)


def start(place: Path) -> None:
    """Do what ``distill`` does before its first step."""
    settings = DistillSettings(
        store=place, data=place.parent, run=place.parent / "run", student="conv4-16", objective="compress-1q",
        batch_size=BATCH, epochs=1, threads=1,
    )  # fmt: skip
    device = prepare_device("cpu", 1, training=True)
    inputs = open_inputs([settings], device, Silent())
    (split,) = inputs.splits
    teacher = TeacherViews(split, inputs.schedule, settings, device)
    replay = Replay(
        split, inputs.source, inputs.renderer, (teacher,), sizes=(SIDE,), images_per_epoch=len(split), batch_size=BATCH,
        seed=0, schedule=inputs.schedule, policy=None,
    )  # fmt: skip
    next(replay.batches(0, 0))
    teacher.close()


def step(features: int, bank: int) -> None:
    """Take steps of CompRess-1q, whose student is what gives the features."""
    prepare_device("cpu", 1, training=True)
    teacher, student = normalize(torch.randn(BATCH, features), dim=1), torch.randn(BATCH, features).requires_grad_()
    objective = CompRess1q(nn.Identity(), teacher_dim=features, student_dim=features, head="none", bank_size=bank)
    for _ in range(STEPS):
        objective(nn.Identity(), Batch(student, teacher))[0].backward()
        objective.after_step(nn.Identity())


def knn(place: Path) -> None:
    """Classify a thousand images by the neighbours of a store."""
    evaluate(KnnSettings(model=str(place), output=place.parent / "knn", threads=1), Silent())


def verify(place: Path) -> None:
    """Verify a store."""
    if not verify_store(open_store(place)).ok:
        raise ValueError(f"'{place}' is damaged.")


def info(place: Path) -> None:
    """Do what ``store info`` does, but for printing."""
    store = open_store(place)
    describe(store)
    embedding_spread(store)


def plan(place: Path) -> None:
    """List the blocks that are missing."""
    missing_blocks(StoreWriter(place))


class Series(NamedTuple):
    """A stage at several sizes of one kind."""

    stage: str
    letter: str
    sizes: Sequence[int]
    taken: Sequence[Taken]

    def exponent(self, kind: str) -> float:
        """Return the slope of the logarithm of ``cpu`` or ``memory`` by that of the size."""
        costs = [max(getattr(taken, kind), 1e-3) for taken in self.taken]
        return float(np.polyfit(np.log(self.sizes), np.log(costs), 1)[0])


def measured(folder: Path, sizes: Mapping[str, Sequence[int]]) -> Iterator[Series]:
    """Measure every stage by each kind of size that matters to it; the other kinds have their least size."""

    def series(stage: Callable[..., object], letter: str, given: Sequence[tuple[Any, ...]]) -> Series:
        kind = "photographs" if stage in (index, embed_views) and letter == "N" else letter
        return Series(stage.__name__, letter, sizes[kind], [alone(stage, *each) for each in given])

    photographs = [folder / str(count) for count in sizes["photographs"]]
    for place, count in zip(photographs, sizes["photographs"], strict=True):
        write_photographs(place, count)
    yield series(index, "N", [(place,) for place in photographs])
    yield series(embed_views, "N", [(place, 1) for place in photographs])
    yield series(embed_views, "V", [(photographs[0], views) for views in sizes["V"]])
    least = {letter: sizes[letter][0] for letter in "NDV"}
    for letter in least:
        stores = [(synthetic(folder, *{**least, letter: size}.values()),) for size in sizes[letter]]
        for stage in (open_rows, start, verify) if letter == "V" else (open_rows, start, verify, knn):
            yield series(stage, letter, stores)
    yield series(step, "D", [(features, sizes["K"][0]) for features in sizes["D"]])
    yield series(step, "K", [(sizes["D"][0], bank) for bank in sizes["K"]])


def print_many(folder: Path, rows: int) -> None:
    """Print what a store of many rows takes, for each row, and for many more."""
    write_links(folder, rows)
    place = folder / "store.zarr"
    taken = {"write": alone(write_store, place, rows, FEW, 1)}
    taken |= {
        "open, read paths and labels": alone(open_rows, place),
        "`store info`": alone(info, place),
        "list the missing blocks": alone(plan, place),
        "`distill` to its first batch": alone(start, place),
    }
    found = [
        [name, f"{each.cpu:.1f}", f"{each.memory / 1e6:.0f}", f"{each.memory / rows:.0f}",
         f"{each.cpu * FAR / rows:.0f}", f"{each.memory * FAR / rows / 1e9:.1f}"]
        for name, each in taken.items()
    ]  # fmt: skip
    far = f"{FAR // 10**6} million"
    print_table([f"{rows:,} rows", "CPU s", "MB", "bytes a row", f"{far}: CPU s", f"{far}: GB"], found)


def main(toy: bool, rows: int | None = None) -> None:
    """Print the tables and the verdicts."""
    with tempfile.TemporaryDirectory() as folder:
        found = list(measured(Path(folder), TOY if toy else SIZES))
        table = [
            [each.stage.removesuffix("_views").removesuffix("_rows"), each.letter]
            + [", ".join(f"{value:,}" for value in each.sizes)]
            + [", ".join(f"{taken.cpu:.2f}" for taken in each.taken), f"{each.exponent('cpu'):.2f}"]
            + [", ".join(f"{taken.memory / 1e6:.0f}" for taken in each.taken), f"{each.exponent('memory'):.2f}"]
            for each in found
        ]
        print_table(["stage", "by", "sizes", "CPU s", "exponent", "MB", "exponent"], table)
        print_many(Path(folder) / "many", rows or (2000 if toy else MANY))
    (of_embed,) = (each for each in found if (each.stage, each.letter) == ("embed_views", "N"))
    print_verdict("exponent of embed's memory by images", of_embed.exponent("memory"), at_most=MOST_MEMORY)
    print_verdict("largest exponent of a stage's time", max(each.exponent("cpu") for each in found), at_most=MOST_TIME)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--toy", action="store_true", help="tiny sizes, whose figures mean nothing")
    parser.add_argument("--rows", type=int, help=f"rows of the last table, {MANY:,} unless given")
    options = parser.parse_args()
    main(options.toy, options.rows)
