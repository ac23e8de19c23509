"""Rendering.

CPU time per view of our renderers against a bare DALI pipeline of the same operators, which reads the files itself and
draws its own random crops, with nothing of ours in it. 224 pixels, batches of 32, one thread: one view of an image, as
in training, and five views of one decode, as `embed --views 4` makes them. `--renderer auto` of `embed` takes the
faster renderer by a trial of its own; its row repeats that renderer's.

The last table is of large synthetic photographs, five views of one decode each, decoded whole and by
`embed --scaled-decoding`, here at a quarter of their size.
"""

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from compress_ssl.pipeline.common.allocator import keep_freed_memory
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.common.settings import RENDERERS
from compress_ssl.pipeline.images.index import index_images
from compress_ssl.pipeline.images.parameters import draw_parameters
from compress_ssl.pipeline.images.policies import POLICIES
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.renderers.fastest import TRIAL_IMAGES, fastest_renderer
from compress_ssl.pipeline.images.rendering import Renderer, RenderJob, render
from compress_ssl.pipeline.images.sources.files import FolderSource
from compress_ssl.storage.parameters import DENOMINATORS, SHRINK
from tests.benchmarks.measure import Way, cpu_seconds, print_table, print_verdict, run, write_photographs
from tests.gpu.parts.photographs import photograph, save

VIEWS, ROUNDS = 5, 3
LARGE = (3000, 4000)  # pixels


def bare_dali(folder: Path, sides: Sequence[int], batch: int) -> Pipeline:
    """Return a pipeline that decodes files, and makes a random crop of each side; one crop has only its box decoded."""
    # Without prefetching, which would be done in another way's turn.
    given = {"exec_async": False, "exec_pipelined": False, "prefetch_queue_depth": 1}
    pipeline = Pipeline(batch_size=batch, num_threads=1, device_id=None, seed=0, **given)
    with pipeline:
        encoded, _ = fn.readers.file(file_root=str(folder), random_shuffle=False)
        options = {"device": "cpu", "output_type": types.DALIImageType.RGB}
        decoded = fn.decoders.image(encoded, **options) if len(sides) > 1 else None
        views = []
        for side in sides:
            start, shape = fn.random_crop_generator(fn.peek_image_shape(encoded))
            if decoded is None:
                box = fn.decoders.image_slice(encoded, start=start, shape=shape, axis_names="HW", **options)
            else:
                box = fn.slice(decoded, start=start, shape=shape, axis_names="HW")
            resized = fn.resize(box, size=[side, side], antialias=True)
            views.append(fn.flip(resized, horizontal=fn.random.coin_flip()))
        pipeline.set_outputs(*views)
    pipeline.build()
    return pipeline


def run_all(pipeline: Pipeline, batches: int) -> None:
    """Run a pipeline, and drop what comes out."""
    for _ in range(batches):
        pipeline.run()


def job_of(folder: Path, views: int, side: int, shrink: int = 1) -> RenderJob:
    """Return the job of rendering random views of all images of a folder."""
    source = FolderSource(folder)
    index = index_images(source, source.listing(), folder.parent / "index.npz", threads=1, progress=Silent())
    policy = {"name": "crop-flip", **POLICIES["crop-flip"].model_dump()}
    view = {"policy": policy, "seed": 0, "size": side, SHRINK: shrink}
    rows = np.arange(len(index.samples))
    drawn = [draw_parameters(number, view, rows, index.samples.image_size) for number in range(1, views + 1)]
    return RenderJob.of(
        source, index.samples, rows, parameters=np.stack(drawn, axis=1), sizes=(side,) * views, view=view
    )


def render_all(renderer: Renderer, job: RenderJob, batch: int) -> None:
    """Render a job, and drop the views."""
    for _views in render(renderer, job, batch):
        pass


def compare(folder: Path, views: int, side: int, batch: int) -> None:
    """Print our renderers beside bare DALI."""
    job = job_of(folder, views, side)
    images = len(job.paths)
    pipeline = bare_dali(folder, (side,) * views, batch)
    ways: dict[str, Way] = {"bare": functools.partial(run_all, pipeline, images // batch)}
    for name in RENDERERS:
        ways[name] = functools.partial(render_all, make_renderer(name, torch.device("cpu"), 1), job, batch)
    milliseconds = {name: 1e3 * cpu / (views * images) for name, cpu in cpu_seconds(ways, ROUNDS).items()}
    milliseconds["auto"] = milliseconds[fastest_renderer(job.part(slice(TRIAL_IMAGES)), 1)]
    shown = {"bare": "bare DALI", **{name: f"`--renderer {name}`" for name in (*RENDERERS, "auto")}}
    print(f"{views} view{'s' * (views > 1)} of an image:\n")
    rows = [
        (shown[name], f"{taken:.2f}", f"{milliseconds['bare'] / taken:.2f}") for name, taken in milliseconds.items()
    ]
    print_table(("", "CPU ms per view", "speed ÷ bare DALI"), rows)
    print_verdict("`dali` ÷ bare DALI", milliseconds["bare"] / milliseconds["dali"], at_least=0.95)
    print_verdict("`auto` ÷ `torchvision`", milliseconds["torchvision"] / milliseconds["auto"], at_least=1)
    print()


def main(toy: bool) -> None:
    """Print the tables."""
    images, large, batch, side = (8, 2, 4, 32) if toy else (256, 8, 32, 224)
    keep_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "data" / "train"
        print(f"{images} {write_photographs(folder.parent, images)}.\n")
        for views in (1, VIEWS):
            compare(folder, views, side, batch)
        for number in range(large):
            width, height = (300, 400) if toy else LARGE
            save(Path(scratch) / "large" / "images" / f"{number:02d}.jpg", photograph(number, width, height))
        jobs = {
            shrink: job_of(Path(scratch) / "large" / "images", VIEWS, side, shrink) for shrink in (1, max(DENOMINATORS))
        }
        ways = {
            f"{name}, {'whole' if shrink == 1 else 'a quarter'}": functools.partial(
                render_all, make_renderer(name, torch.device("cpu"), 1), job, batch
            )
            for name in RENDERERS
            for shrink, job in jobs.items()
        }
        milliseconds = {way: 1e3 * cpu / (VIEWS * large) for way, cpu in cpu_seconds(ways, ROUNDS).items()}
    slowest = max(milliseconds.values())
    print(f"{large} photographs of {LARGE[0]:,} x {LARGE[1]:,} pixels, {VIEWS} views of each:\n")
    rows = [(way, f"{taken:.1f}", f"{taken / slowest:.2f}") for way, taken in milliseconds.items()]
    print_table(("", "CPU ms per view", "relative"), rows)


if __name__ == "__main__":
    run(main)
