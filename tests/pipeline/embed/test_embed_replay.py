"""The pixels that the teacher saw come out again, in another process that has the store and the images alone."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash

from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.rendering import RenderJob, render
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.storage import EmbeddingStore, open_store
from tests.processes import Forked

Wanting = Callable[[str], str]


def replay(data: Path, *stores: Path) -> None:
    """Render the logged views of each store again, shuffled; print how many there were, and which differ."""
    renderer = make_renderer("dali", torch.device("cpu"), 3)
    for store in stores:
        split = open_store(store)["train"]
        lines = [json.loads(line) for line in log_of(store).read_text().splitlines()]
        wrong, checked = [], 0
        for view in range(len(split.views)):
            logged = {line["row"]: line["xxh3_128"] for line in lines if line["view"] == view}
            rows = np.random.default_rng(view).permutation(list(logged))
            job = RenderJob.of(
                open_source(data, split.folder),
                split.samples,
                rows,
                parameters=split.augmentation(view)[rows][:, None],
                sizes=(split.views[view]["size"],),
                view=split.views[view],
            )
            images = (image for (batch,) in render(renderer, job, 13) for image in batch)
            for row, image in zip(rows.tolist(), images, strict=True):
                checked += 1
                if xxhash.xxh3_128_hexdigest(image.numpy().tobytes()) != logged[row]:
                    wrong.append((view, row))
        print(json.dumps({"checked": checked, "wrong": wrong}), flush=True)


def log_of(store: Path) -> Path:
    return store.with_name(f"{store.name}.pixel-hashes.jsonl")


CASES = (
    ("crop-flip", "bilinear", False), ("moco-v2", "bilinear", False), ("crop-flip", "bicubic", False),
    ("crop-flip", "bilinear", True),  # decoded at half of their size
)  # fmt: skip


@pytest.mark.parametrize(("images", "views"), [(30, 3), pytest.param(120, 9, marks=pytest.mark.slow)])
def test_logged_views_come_out_the_same_shuffled_in_a_new_process(
    photographs: Path,
    tmp_path: Path,
    embedded: Callable[..., EmbeddingStore],
    wanting: Wanting,
    images: int,
    views: int,
) -> None:
    logged = images * (1 + views) * 5 // 6
    settings = {
        "size": 64,
        "resize": 72,
        "limit": images,
        "views": views,
        "split": ("train",),
        "batch_size": 32,
        "block_rows": images // 4,
    }
    stores, counts = [], []
    for policy, interpolation, scaled in CASES:
        store = embedded(
            photographs,
            tmp_path / f"{policy}-{interpolation}-{scaled}.zarr",
            teacher=wanting(interpolation),
            policy=policy,
            scaled_decoding=scaled,
            pixel_hashes=logged,
            **settings,
        )
        assert [view["interpolation"] for view in store["train"].views] == [interpolation] * (1 + views)
        assert [view.get("shrink") for view in store["train"].views] == [4 if scaled else None] * (1 + views)
        lines = [json.loads(line) for line in log_of(store.path).read_text().splitlines()]
        assert 0.9 * logged <= len(lines) <= 1.1 * logged
        assert {line["view"] for line in lines} == set(range(1 + views))
        stores.append(store.path)
        counts.append(len(lines))
    process = Forked(replay, photographs, *(Path(str(store)) for store in stores))
    assert process.wait() == 0, process.errors
    replayed = [json.loads(line) for line in process.output.splitlines()]
    assert replayed == [{"checked": count, "wrong": []} for count in counts]


def test_a_new_store_begins_a_new_log(data: Path, tmp_path: Path, embedded: Callable[..., EmbeddingStore]) -> None:
    path = tmp_path / "store.zarr"
    embedded(data, path, pixel_hashes=10**6)
    first = log_of(path).read_text().splitlines()
    assert len(first) == 36 * 3 + 8
    embedded(data, path, pixel_hashes=10**6, seed=1, overwrite=True)
    second = log_of(path).read_text().splitlines()
    assert len(second) == len(first)
    assert sum(one != other for one, other in zip(first, second, strict=True)) > 36
    embedded(data, path, seed=1, overwrite=True)
    assert not log_of(path).exists()
