"""Stage one: its stores, embedded again here and on the other device; its estimate; Dask."""

import logging

import numpy as np
import torch

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed.estimate import estimate
from compress_ssl.pipeline.embed.run import embed as embed_stage
from compress_ssl.pipeline.embed.verify.reembed import reembed
from compress_ssl.pipeline.embed.verify.settings import VerifySettings
from compress_ssl.pipeline.images.canaries import check_canaries
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.storage import EmbeddingStore
from tests.gpu.measure import Pace
from tests.gpu.run import Run
from tests.gpu.stages import embed_settings, stored

KL_NATS = 0.01  # of half precision against float32, in the mean


def embed(run: Run) -> None:
    """Stores by half precision; their rows embedded again; the estimate of a longer one against what it takes."""
    for name in ("photos", "moco"):
        with run.attempt(f"store {name}"):
            pace = Pace()
            found = stored(run, name, pace).attributes.get("precision_against_float32", {"kl_mean_nats": 0.0})
            run.check(f"store {name} in half precision", found["kl_mean_nats"] < KL_NATS, kl_nats=found["kl_mean_nats"])
            run.measured(f"store {name}", views_per_second=pace.per_second)
    with run.attempt("rows come out again"):
        embedded_again(run, stored(run, "photos"), run.device)
    with run.attempt("estimate"):
        pace, many = Pace(), embed_settings(run, "estimated", data="many", split=["train"], views=2)
        said = estimate(many, Silent()).seconds
        embed_stage(many, pace)
        run.measured("estimate", seconds=said, took=pace.seconds, ratio=said / pace.seconds)


def cross(run: Run) -> None:
    """Stores that another process made on a GPU, and one of a CPU, replayed on both: pixels and embeddings."""
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("compress_ssl.pipeline.images").addHandler(handler)
    for name in ("photos", "moco", "cpu"):
        made_on = "cpu" if name == "cpu" else run.device
        for device in dict.fromkeys(("cpu", run.device)):
            with run.attempt(f"{name}, made on {made_on}, on {device}"):
                store = stored(run, name)
                source = open_source(run.folder / "photos", "train")
                heard.clear()
                # Raises if the pixels are further apart than a student may see.
                check_canaries(store, "train", source, make_renderer("dali", torch.device(device), run.threads), 37)
                said = " ".join(heard)  # nothing if every pixel is the same
                run.check(f"pixels of {name}, made on {made_on}, on {device}", device != made_on or not said, said=said)
    with run.attempt("rows of a GPU on the CPU"):
        embedded_again(run, stored(run, "photos"), "cpu")


def embedded_again(run: Run, store: EmbeddingStore, device: str) -> None:
    """Check that a sample of a store's rows comes out again on a device."""
    teacher = str(embed_settings(run, "photos").teacher)
    settings = {"teacher": teacher, "data": run.folder / "photos", "device": device, "sample": 16 if run.toy else 64}
    for found in reembed(store, VerifySettings.model_validate(settings), Silent()):
        name = f"rows of {found.split} come out again on {device}"
        run.check(name, found.ok, cosine_mean=found.cosine_mean, cosine_min=found.cosine_min)


def dask(run: Run) -> None:
    """One Dask worker, which is given its GPU, writes the rows of this process."""
    settings = embed_settings(run, "dask", views=1, split=["train"], workers=1)
    alone = embed_settings(run, "alone", views=1, split=["train"])
    rows, others = (embed_stage(each, Silent())["train"].view(1).astype(np.float32) for each in (settings, alone))
    cosines = torch.nn.functional.cosine_similarity(torch.from_numpy(rows), torch.from_numpy(others))
    run.check("embed --workers 1", float(cosines.min()) > 0.999, cosine_min=float(cosines.min()))
