"""The product's renderer: against the reference, against itself, what it yields when that is kept, and its speed."""

import numpy as np
import torch

from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.rendering import render
from tests.gpu.run import Run
from tests.gpu.views import differing, job_of, levels_apart, rendered, rendering_pace

MEAN_LEVELS = 1.0  # by which a view may be apart from the reference's, of 255


def renderer(run: Run) -> None:
    """Views as torchvision's; one as of several, in other batches; those kept, or dropped while the GPU reads them."""
    device, side, count = torch.device(run.device), 32 if run.toy else 224, 16 if run.toy else 256
    dali, reference = (
        make_renderer("dali", device, run.threads),
        make_renderer("torchvision", torch.device("cpu"), run.threads),
    )
    for policy in ("crop-flip", "moco-v2"):
        with run.attempt(f"{policy} as by torchvision on the CPU"):
            job = job_of(run, side=side, views=2, policy=policy, count=count)
            apart = levels_apart(rendered(dali, job, 64)[0], rendered(reference, job, 64)[0]).mean(axis=(1, 2, 3))
            facts = {"mean": float(apart.mean()), "worst_image": float(apart.max())}
            run.check(f"{policy} as by torchvision on the CPU", apart.max() < MEAN_LEVELS, **facts)

    one = job_of(run, side=side, count=count)
    alone = rendered(dali, one, 64)[0]
    several = differing(alone, rendered(dali, job_of(run, side=side, views=4, count=count), 64)[0])
    run.check("one view is as of several", several == 0, differing=several, views=len(alone))
    other = differing(alone, rendered(dali, one, 37)[0])
    run.check("other batches, the same pixels", other == 0, differing=other, views=len(alone))

    matrix = torch.randn(64 if run.toy else 4096, 64 if run.toy else 4096, device=device)
    for name, taken in {"kept": torch.Tensor.detach, "copied and dropped": torch.clone}.items():
        batches = []
        for (pixels,) in render(dali, one, 8):
            for _ in range(20):
                matrix = (matrix @ matrix).clamp(-1, 1)  # the GPU lags behind, the pipeline does not
            batches.append(taken(pixels))
        lost = differing(alone, np.concatenate([pixels.cpu().numpy() for pixels in batches]))
        run.check(f"outputs that are {name} stay as they are", lost == 0, differing=lost, batches=len(batches))

    for policy, views in (("crop-flip", 1), ("crop-flip", 5), ("moco-v2", 1)):
        job = job_of(run, side=side, views=views, policy=policy)
        run.measured("rendering", policy=policy, views=views, views_per_second=rendering_pace(dali, job))
