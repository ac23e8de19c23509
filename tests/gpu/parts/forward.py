"""Forward passes against the matrix peak, and ``embed`` against the slower of forward pass and rendering."""

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from compress_ssl.pipeline.common.device import AUTOCAST_DTYPES, autocast, choose_precision, prepare_device
from compress_ssl.pipeline.common.settings import Precision
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.networks.network import Network, load_network
from tests.gpu.measure import Pace, matrix_peak, seconds_of
from tests.gpu.run import Run
from tests.gpu.stages import embed_settings
from tests.gpu.views import job_of, rendering_pace

BATCH = 128  # of ``embed``
GOALS = {"resnet50-w4": 0.35}  # share of the matrix peak
EMBED_GOAL = 0.95  # of the slower of forward pass and rendering


def forward(run: Run) -> None:
    """Images a second of the teachers, as the stages run them and compiled; then of ``embed``."""
    device = prepare_device(run.device, run.threads)
    half = choose_precision("auto", device)
    precisions: tuple[Precision, ...] = ("float32",) if run.toy else (half, "bfloat16")
    peaks = {each: matrix_peak(AUTOCAST_DTYPES.get(each, torch.float32), run.device) for each in precisions}
    views = rendering_pace(make_renderer("dali", device, run.threads), job_of(run, side=side_of(run), views=3), BATCH)
    run.measured("rendering, three views of an image as in embed", views_per_second=views)
    for name in ("conv4-16",) if run.toy else ("resnet50", "resnet50-w4"):
        network = load_network(f"random/{name}")
        network.module.eval().to(device).to(memory_format=torch.channels_last)
        shares, images = [], 0.0
        flops = flops_of_image(network, run)
        for precision in precisions:
            for batch in (8,) if run.toy else (64, BATCH, 256):
                with run.attempt(f"{name} {precision} {batch}"):
                    pace = batch / seconds_of_pass(network, pixels_of(run, batch), precision)
                    shares.append(flops * pace / peaks[precision])
                    if precision == half and batch in (8, BATCH):
                        images = pace
                    facts = {"precision": precision, "batch": batch, "of_matrix_peak": shares[-1]}
                    run.measured(f"{name} forward", images_per_second=pace, **facts)
        if name in GOALS or run.toy:
            run.goal(f"{name} forward: share of the matrix peak", max(shares), least=GOALS.get(name, 0.0))
        with run.attempt(f"embed by {name}"):
            embed_pace(run, name, images, views)
        if run.device == "cuda":
            with run.attempt(f"{name} compiled"):
                network.module.compile()
                pace = BATCH / seconds_of_pass(network, pixels_of(run, BATCH), half)
                run.measured(f"{name} forward, compiled", images_per_second=pace, precision=half, batch=BATCH)
            torch.cuda.empty_cache()


def side_of(run: Run) -> int:
    return 32 if run.toy else 224


def pixels_of(run: Run, batch: int) -> Tensor:
    side = side_of(run)
    return torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, device=run.device)


def flops_of_image(network: Network, run: Run) -> int:
    """Return two for each multiplication and addition, of one image."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.features(pixels_of(run, 1))
    return counter.get_total_flops()


@torch.inference_mode()
def seconds_of_pass(network: Network, pixels: Tensor, precision: Precision) -> float:
    with autocast(pixels.device, precision):
        return seconds_of(lambda: network.features(pixels), pixels.device.type)


def embed_pace(run: Run, name: str, forward: float, rendering: float) -> None:
    """Compare the views per second of ``embed``, once it is under way, with its two parts alone."""
    pace = Pace()
    embed(embed_settings(run, f"pace-{name}", teacher=f"random/{name}", data="many", split=["train"], views=2), pace)
    run.measured(f"embed by {name}", views_per_second=pace.per_second, forward=forward, rendering=rendering)
    slower = min(forward, rendering)
    run.goal(f"embed by {name}: of the slower of forward and rendering", pace.per_second / slower, least=EMBED_GOAL)
