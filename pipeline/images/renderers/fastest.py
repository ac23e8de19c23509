"""Which renderer takes less CPU time on this machine, by a short trial."""

import logging
import time

import torch

from compress_ssl.pipeline.common.settings import RENDERERS
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.rendering import RenderJob, render

TRIAL_IMAGES = 64  # rendered twice: the first time, buffers and caches fill
TRIAL_VIEWS = 8  # of each at most, which all are in memory

logger = logging.getLogger(__name__)


def fastest_renderer(job: RenderJob, threads: int) -> str:
    """Render a job on the CPU with every renderer; log what each took, and return the name of the fastest."""
    views = job.parameters.shape[0] * job.parameters.shape[1]
    milliseconds = {name: 1e3 * _cpu_seconds(name, job, threads) / views for name in RENDERERS}
    fastest = min(milliseconds, key=milliseconds.__getitem__)
    logger.info(
        "--renderer auto: %s, by a trial of %d views (%s).",
        fastest, views, ", ".join(f"{name} {taken:.2f} CPU ms per view" for name, taken in milliseconds.items()),
    )  # fmt: skip
    return fastest


def _cpu_seconds(name: str, job: RenderJob, threads: int) -> float:
    renderer = make_renderer(name, torch.device("cpu"), threads)
    for _ in range(2):
        begun = time.process_time()
        for _views in render(renderer, job, len(job.paths)):
            pass
    return time.process_time() - begun
