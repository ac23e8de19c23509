"""Photographs decoded at a half or a quarter of their size."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.images.decode import decode
from compress_ssl.pipeline.images.index import index_images
from compress_ssl.pipeline.images.parameters import draw_parameters
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.rendering import RenderJob, render
from compress_ssl.pipeline.images.sources.files import FolderSource
from compress_ssl.storage.parameters import decoded_size, denominators, impossible
from tests.gpu.parts.photographs import photograph, save

VIEW = {"size": 32, "shrink": 4, "policy": {"name": "evaluation", "resize": 40}, "seed": None}


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    more = {"JPEG": {"quality": 92}, "MPO": {"save_all": True, "append_images": [image.rotate(180)]}}.get(kind, {})
    image.save(buffer, kind, **more)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("MPO", "RGB"), ("PNG", "RGB")]
)
@pytest.mark.parametrize("denominator", [2, 4])
def test_image_is_about_the_mean_over_squares(kind: str, mode: str, denominator: int) -> None:
    content = encoded(photograph(0, 301, 403).convert(mode), kind)
    whole, smaller = decode(content), decode(content, denominator=denominator)
    assert smaller.size == (-(-301 // denominator), -(-403 // denominator))
    difference = np.asarray(whole.reduce(denominator)).astype(int) - np.asarray(smaller)
    assert np.abs(difference).mean() < (1e-9 if kind == "PNG" else 2)


def test_short_side_stays_at_least_twice_the_views() -> None:
    for height in range(1, 600, 7):
        for width in (height, 2 * height, 700):
            size = np.array([[height, width]], np.int32)
            found = int(denominators(size, VIEW)[0])
            wanted = next(each for each in (4, 2, 1) if each == 1 or min(height, width) / each >= 2 * 32)
            assert found == wanted
            assert denominators(size, {**VIEW, "shrink": 1})[0] == denominators(size, {"size": 32})[0] == 1
            assert decoded_size(size, VIEW).tolist() == [[-(-height // found), -(-width // found)]]


@pytest.mark.parametrize("renderer", ["dali", "torchvision"])
def test_views_are_nearly_those_of_the_whole_image(renderer: str, tmp_path: Path) -> None:
    for number, side in enumerate((60, 130, 301)):  # decoded whole, at a half, at a quarter
        save(tmp_path / "images" / f"{number}.jpg", photograph(number, side + 20, side))
    source = FolderSource(tmp_path / "images")
    samples = index_images(source, source.listing(), tmp_path / "index.npz", threads=1, progress=Silent()).samples
    rendered = []
    for view in (VIEW, {**VIEW, "shrink": 1}):
        parameters = draw_parameters(0, view, np.arange(len(samples.image_size)), samples.image_size)
        assert impossible(parameters, samples.status, samples.image_size, view) is None
        rows = np.arange(3)
        job = RenderJob.of(source, samples, rows, parameters=parameters[:, None], sizes=(32,), view=view)
        ((images,),) = render(make_renderer(renderer, torch.device("cpu"), 1), job, 3)
        rendered.append(images.int())
    smaller, whole = rendered
    assert smaller[0].equal(whole[0])
    assert not smaller[1:].equal(whole[1:])
    assert (smaller - whole).abs().float().mean() < 3
