"""How fast views are rendered: both renderers, and one decode for four views against four decodes.

python tests/benchmarks/rendering.py FOLDER_OF_IMAGES        prints rows for docs/benchmarks.md
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.images.index import index_images
from compress_ssl.pipeline.images.policies import POLICIES, random_parameters
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.rendering import RenderJob, render
from compress_ssl.pipeline.images.sources.files import FolderSource

IMAGES, SIZE, BATCH, THREADS, ROUNDS = 400, 224, 32, 2, 3


def jobs(folder: Path, views: int) -> RenderJob:
    """Make a job of some images in so many random views."""
    with tempfile.TemporaryDirectory() as scratch:
        source, cache = FolderSource(folder), Path(scratch) / "index.npz"
        index = index_images(source, source.listing(), cache, limit=IMAGES, threads=THREADS, progress=Silent())
    samples = index.samples
    drawn = [
        random_parameters(POLICIES["crop-flip"], SIZE, 0, view, 0, samples.image_size) for view in range(1, views + 1)
    ]
    parameters = np.stack(drawn, axis=1)
    return RenderJob(index.source, samples.sample_path, samples.content_hash, parameters, (SIZE,) * views)


def cpu_seconds_a_view(renderer_name: str, job: RenderJob) -> tuple[float, float]:
    """CPU seconds and wall seconds of one view, the median of the rounds."""
    renderer = make_renderer(renderer_name, torch.device("cpu"), THREADS)
    list(render(renderer, job, BATCH))
    views = len(job.paths) * len(job.sizes)
    measured = []
    for _ in range(ROUNDS):
        cpu, wall = time.process_time(), time.perf_counter()
        for _views in render(renderer, job, BATCH):
            pass
        measured.append(((time.process_time() - cpu) / views, (time.perf_counter() - wall) / views))
    return sorted(measured)[ROUNDS // 2]


def main() -> None:
    """Measure side by side in one run, and print the ratios to the first row."""
    folder = Path(sys.argv[1])
    one, four = jobs(folder, 1), jobs(folder, 4)
    cases = {
        "DALI, one view a decode": ("dali", one),
        "DALI, four views a decode": ("dali", four),
        "torchvision, one view a decode": ("torchvision", one),
        "torchvision, four views a decode": ("torchvision", four),
    }
    reference = None
    print("| case | views a CPU-second | views a second | CPU time of a view, relative |\n| --- | --- | --- | --- |")
    for name, (renderer, job) in cases.items():
        cpu, wall = cpu_seconds_a_view(renderer, job)
        reference = reference or cpu
        print(f"| {name} | {1 / cpu:.0f} | {1 / wall:.0f} | {cpu / reference:.2f} |")


if __name__ == "__main__":
    main()
