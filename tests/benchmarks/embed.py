"""Embedding against its unavoidable parts.

CPU time per view of `embed`, without its start, against the teacher's forward pass alone (float32, in
the better memory layout) and a bare DALI pipeline that decodes each file once for five views, with nothing of ours in
it. EfficientNet-Lite0 with random weights, 128 pixels, batches of 64, one thread. Freed memory is kept by all of them
(`pipeline/common/allocator.py`).
"""

import copy
import functools
import tempfile
from pathlib import Path

import numpy as np
import torch

from compress_ssl.pipeline.common.allocator import keep_freed_memory
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.networks.network import load_network
from tests.benchmarks.measure import Way, cpu_turns, print_table, print_verdict, run, write_photographs
from tests.benchmarks.rendering import bare_dali, run_all
from tests.gpu.measure import Pace

VIEWS, ROUNDS, FORWARDS = 4, 5, 4
LAYOUTS = {"forward, NCHW": torch.contiguous_format, "forward, NHWC": torch.channels_last}


def forward(network: torch.nn.Module, images: torch.Tensor) -> None:
    """Run the network some times."""
    with torch.inference_mode():
        for _ in range(FORWARDS):
            network(images)


def main(toy: bool) -> None:
    """Print the parts, and the whole against their sum."""
    images, batch, side = (8, 4, 32) if toy else (256, 64, 128)
    teacher = "random/conv4-16" if toy else "random/timm/tf_efficientnet_lite0"
    keep_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        kind = write_photographs(folder / "data", images)
        settings = EmbedSettings.model_validate(
            {
                "data": folder / "data", "store": folder / "store.zarr", "teacher": teacher, "split": ("train",),
                "views": VIEWS, "size": side, "batch_size": batch, "device": "cpu", "threads": 1, "overwrite": True,
            }
        )  # fmt: skip
        module = load_network(teacher, 0).module.eval()
        batches = {name: torch.rand(batch, 3, side, side).to(memory_format=layout) for name, layout in LAYOUTS.items()}
        networks = {name: copy.deepcopy(module).to(memory_format=layout) for name, layout in LAYOUTS.items()}
        pipeline = bare_dali(folder / "data" / "train", (side,) * (1 + VIEWS), batch)

        def embed_all() -> float:
            pace = Pace()
            embed(settings, pace)
            return pace.cpu_seconds

        ways: dict[str, Way] = {name: functools.partial(forward, networks[name], batches[name]) for name in LAYOUTS}
        ways["DALI"] = functools.partial(run_all, pipeline, images // batch)
        cpu = cpu_turns({**ways, "`embed`": embed_all}, 1 if toy else ROUNDS)
    units = {**dict.fromkeys(LAYOUTS, FORWARDS * batch), "DALI": images * (1 + VIEWS), "`embed`": 1}
    milliseconds = {name: 1e3 * cpu[name] / units[name] for name in cpu}
    better = min(LAYOUTS, key=lambda name: np.median(milliseconds[name]))
    parts = milliseconds[better] + milliseconds["DALI"]
    print(f"{images} {kind}, {VIEWS} random views and view 0; medians of {ROUNDS} turns, ratios within a turn.\n")
    rows = [(name, f"{np.median(of):.2f}", f"{np.median(of / parts):.2f}") for name, of in milliseconds.items()]
    print_table(("", "CPU ms per view", "÷ (forward + DALI)"), rows)
    print_verdict("`embed` ÷ (forward + DALI)", float(np.median(milliseconds["`embed`"] / parts)), at_most=1.1)


if __name__ == "__main__":
    run(main)
