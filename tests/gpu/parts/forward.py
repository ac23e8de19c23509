"""Forward passes against the matrix peak, and ``embed`` against the slower of forward pass and rendering."""

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from compress_ssl.pipeline.common.device import TORCH_DTYPES
from compress_ssl.pipeline.common.settings import Precision
from compress_ssl.pipeline.embed.embedder import Embedder, embed_images, load_embedder
from compress_ssl.pipeline.embed.run import embed
from tests.gpu.measure import Pace, matrix_peak, seconds_of
from tests.gpu.run import Run
from tests.gpu.stages import embed_settings
from tests.gpu.views import job_of, rendering_pace

BATCH = 128  # of ``embed``
GOALS = {"resnet50-w4": 0.35}  # share of the matrix peak
EMBED_GOAL = 0.95  # of the slower of forward pass and rendering


def forward(run: Run) -> None:
    """Images a second of teachers as ``embed`` runs them, by precision and batch, and compiled; then of ``embed``."""
    precisions: tuple[Precision, ...] = ("float32",) if run.toy else ("float16", "bfloat16")
    peaks = {each: matrix_peak(TORCH_DTYPES[each], run.device) for each in precisions}
    for name in ("conv4-16",) if run.toy else ("resnet50", "resnet50-w4"):
        shares = []
        for precision in precisions:
            embedder = embedder_of(run, name, precision)
            flops = flops_of_image(run, embedder)
            for batch in (8,) if run.toy else (64, BATCH, 256):
                with run.attempt(f"{name} {precision} {batch}"):
                    pace = forward_pace(run, embedder, batch)
                    shares.append(flops * pace / peaks[precision])
                    facts = {"precision": precision, "batch": batch, "of_matrix_peak": shares[-1]}
                    run.measured(f"{name} forward", images_per_second=pace, **facts)
        if name in GOALS:
            run.goal(f"{name} forward: share of the matrix peak", max(shares), least=GOALS[name])
        with run.attempt(f"embed by {name}"):
            embed_pace(run, name)
        if not run.toy:
            with run.attempt(f"{name} compiled"):
                pace = forward_pace(run, embedder_of(run, name, compiled=True), BATCH)
                run.measured(f"{name} forward, compiled", images_per_second=pace, batch=BATCH)
            torch.cuda.empty_cache()


def embedder_of(run: Run, name: str, precision: Precision = "auto", *, compiled: bool = False) -> Embedder:
    settings = embed_settings(run, "none", batch_size=BATCH, compile=compiled)
    return load_embedder(f"random/{name}", settings, precision, normalise=True, pool="own")


def side_of(run: Run) -> int:
    return 32 if run.toy else 224


def pixels_of(run: Run, batch: int) -> Tensor:
    side = side_of(run)
    return torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, device=run.device)


def flops_of_image(run: Run, embedder: Embedder) -> int:
    """Return two for each multiplication and addition, of one image."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        embedder.network.features(pixels_of(run, 1))
    return counter.get_total_flops()


def forward_pace(run: Run, embedder: Embedder, batch: int) -> float:
    """Return the images per second of batches that are on the device."""
    pixels = pixels_of(run, batch)
    return batch / seconds_of(lambda: embed_images(embedder, pixels), run.device)


def embed_pace(run: Run, name: str) -> None:
    """Compare the views per second of ``embed``, once it is under way, with its two parts alone."""
    embedder, pace = embedder_of(run, name), Pace()
    forward = forward_pace(run, embedder, 8 if run.toy else BATCH)
    rendering = rendering_pace(embedder.renderer, job_of(run, side=side_of(run), views=3), BATCH)
    embed(embed_settings(run, f"pace-{name}", teacher=f"random/{name}", data="many", split=["train"], views=2), pace)
    run.measured(f"embed by {name}", views_per_second=pace.per_second, forward=forward, rendering=rendering)
    slower = min(forward, rendering)
    run.goal(f"embed by {name}: of the slower of forward and rendering", pace.per_second / slower, least=EMBED_GOAL)
