"""How trainings end before their time: stopped and resumed, and with a full memory."""

import contextlib
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from compress_ssl.pipeline.common.errors import RunError, Stopped
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.run import distill
from compress_ssl.pipeline.embed.run import embed
from tests.gpu.run import Run
from tests.gpu.stages import apart, distill_settings, embed_settings, logged_losses, losses, stored

MEMORY = 6_000_000_000  # bytes that a full memory has on a GPU
TOY_MEMORY = 2_000_000_000


class Stopping(Silent):
    """Progress that sends this process SIGTERM after some images."""

    def __init__(self, images: int) -> None:
        self._left = images

    @contextlib.contextmanager
    def track(self, title: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
        """Count the images down."""

        def advance(amount: int) -> None:
            self._left -= amount
            if self._left <= 0 < self._left + amount:
                signal.raise_signal(signal.SIGTERM)

        yield advance


def stopping(run: Run) -> None:
    """A training that is stopped inside an epoch and resumed logs what one never stopped does."""
    store = stored(run, "small")
    whole = losses(distill_settings(run, "whole", epochs=3))
    settings = distill_settings(run, "stopped", epochs=3)
    try:
        distill(settings, Stopping(len(store["train"]) * 3 // 2))
        run.check("stopped by SIGTERM", False, said="the training ended")
    except Stopped as stopped:
        run.check("stopped by SIGTERM", len(logged_losses(settings)) < len(whole), said=str(stopped))
    found = losses(settings.model_copy(update={"overwrite": False, "resume": True}))
    run.check("resumed", apart(whole, found) < 0.01, apart=apart(whole, found))


def full_memory(run: Run) -> None:
    """A memory that is full ends in one sentence that says so: torch's in both stages, and the whole GPU's."""
    large: dict[str, Any] = {"store": stored(run, "photos").path, "renderer": "dali"}
    if run.toy:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + TOY_MEMORY, resource.RLIM_INFINITY))
        large |= {"objective": "crd", "negatives": 5_000_000}
    else:
        torch.cuda.set_per_process_memory_fraction(MEMORY / torch.cuda.mem_get_info()[1])
        large |= {"student": "resnet50", "batch_size": 512}
    with ends_with_a_sentence(run, "distill"):
        distill(distill_settings(run, "full", **large), Silent())
    if run.toy:
        return
    with ends_with_a_sentence(run, "embed"):
        embed(embed_settings(run, "full", teacher="random/resnet50-w4", batch_size=512), Silent())
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()
    held = torch.empty(int(torch.cuda.mem_get_info()[0] - 1.5e9), dtype=torch.uint8, device="cuda")
    with ends_with_a_sentence(run, "embed, where others hold the memory"):
        embed(embed_settings(run, "full", batch_size=512), Silent())
    del held


@contextlib.contextmanager
def ends_with_a_sentence(run: Run, name: str) -> Iterator[None]:
    """Check that the block ends in the sentence on a full memory."""
    with run.attempt(name):
        try:
            yield
        except RunError as error:
            run.check(name, "memory was full" in str(error) and "\n" not in str(error), said=str(error)[:300])
        else:
            run.check(name, False, said="it went through")
