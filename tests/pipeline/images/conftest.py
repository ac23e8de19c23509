"""Render jobs made by hand, without an index."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from PIL import Image

from compress_ssl.pipeline.images.parameters import evaluation_parameters, fresh_parameters
from compress_ssl.pipeline.images.policies import POLICIES
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.rendering import RenderJob, render
from compress_ssl.pipeline.images.sources.files import FolderSource

SIZE, RESIZE = 224, 256


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.height, image.width


@pytest.fixture(scope="session")
def job_of() -> Callable[..., RenderJob]:
    """Make a job of files: the evaluation view, then random views of the policies named."""

    def make(paths: Sequence[Path], *policies: str) -> RenderJob:
        sizes = np.array([size_of(path) for path in paths], np.int32).reshape(-1, 2)
        parameters = [evaluation_parameters(sizes, RESIZE, SIZE)]
        for view, policy in enumerate(policies, 1):
            parameters.append(fresh_parameters(POLICIES[policy], SIZE, 7, view, sizes))
        hashes = np.array([xxhash.xxh3_64_intdigest(path.read_bytes()) for path in paths], np.uint64)
        return RenderJob(
            FolderSource(Path()), list(map(str, paths)), hashes, np.stack(parameters, axis=1), (SIZE,) * len(parameters)
        )

    return make


@pytest.fixture(scope="session")
def rendered() -> Callable[..., list[torch.Tensor]]:
    """Render a whole job: for each view one tensor of all its images. Renderers are made once."""
    renderer_of = cache(lambda name, threads: make_renderer(name, torch.device("cpu"), threads))

    def run(name: str, job: RenderJob, batch_size: int = 16, threads: int = 2) -> list[torch.Tensor]:
        batches = render(renderer_of(name, threads), job, batch_size)
        return [torch.cat(views) for views in zip(*batches, strict=True)]

    return run
