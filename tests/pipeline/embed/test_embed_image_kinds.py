"""Images of 16 bits, in four colours, and JPEGs that DALI refuses: what a store holds and replays of them."""

import io
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.inputs import check_same_views
from compress_ssl.pipeline.images.canaries import check_canaries
from compress_ssl.pipeline.images.index import index_images
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.sources.files import FolderSource
from compress_ssl.storage import EmbeddingStore

Embedded = Callable[..., EmbeddingStore]


def photo(number: int) -> Image.Image:
    noise = np.random.default_rng(number).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(noise).resize((24, 20))


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_twins(root: Path, *, odd: bool) -> Path:
    """Six images, which have the same pixels whether they are odd or plain."""
    (root / "train" / "a").mkdir(parents=True)
    for number in range(6):
        image, name = photo(number), f"{number}.png"
        if number < 2:
            grey = image.convert("L")
            deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 256 + number * 99)
            content = encoded(deep if odd else grey, "PNG")
        elif number < 4:
            plain, name = encoded(image, "JPEG"), f"{number}.jpg"
            tables = plain.index(b"\xff\xdb")
            content = plain[:tables] + b"junk" * odd + plain[tables:]
        else:
            four = encoded(image.convert("CMYK"), "JPEG")
            marker = four.index(b"\xff\xee")
            unmarked = four[:marker] + four[marker + 16 :]  # DALI would invert it
            content = unmarked if odd else encoded(Image.open(io.BytesIO(unmarked)).convert("RGB"), "PNG")
        (root / "train" / "a" / name).write_bytes(content)
    return root


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    return write_twins(tmp_path / "odd", odd=True)


@pytest.mark.parametrize("renderer", ["dali", "torchvision"])
def test_odd_images_are_embedded_and_replayed_as_their_plain_twins(
    odd: Path, tmp_path: Path, embedded: Embedded, caplog: pytest.LogCaptureFixture, renderer: str
) -> None:
    caplog.set_level(logging.INFO)
    plain = write_twins(tmp_path / "plain", odd=False)
    stores = [embedded(data, data / "s.zarr", split=("train",), renderer=renderer) for data in (odd, plain)]
    for view in range(3):
        np.testing.assert_array_equal(stores[0]["train"].view(view), stores[1]["train"].view(view))
    assert [view.get("decoding") for store in stores for view in store["train"].views] == [2] * 3 + [None] * 3
    assert f"2 of 6 images have 16 bits ('{odd}/train/a/0.png' first); the high 8 are used." in caplog.text
    caplog.clear()
    check_canaries(
        stores[0], "train", FolderSource(odd / "train"), make_renderer(renderer, torch.device("cpu"), 2), batch_size=4
    )
    assert not caplog.messages


def test_a_store_of_an_earlier_release_goes_on_as_it_was_begun(
    odd: Path, tmp_path: Path, embedded: Embedded, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"split": ("train",), "block_rows": 2}
    new = embedded(odd, tmp_path / "new.zarr", **given)["train"]
    store = embedded(odd, tmp_path / "old.zarr", part="2/2", **given)  # without the images of 16 bits, and CMYK
    for file in store.path.rglob("zarr.json"):
        file.write_text(json.dumps(json.loads(file.read_text(), object_hook=as_earlier)))
    old = embedded(odd, store.path, resume=True, **given)["train"]
    assert all("decoding" not in view for view in old.views)
    assert "old.zarr' goes on as it was begun: 16-bit images in split train are white" in caplog.text
    same = (old.view(0) == new.view(0)).all(axis=1)
    assert same.tolist() == [False, False, True, True, False, False]
    with pytest.raises(ValueError, match="hold 16-bit or CMYK images, which the older of the two shows in other"):
        check_same_views(new, old, np.arange(6), range(1, 3))


def as_earlier(attributes: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in attributes.items() if key not in ("decoding", "canaries")}


def test_an_index_of_an_earlier_release_is_made_anew(odd: Path, tmp_path: Path) -> None:
    """It does not know which images have 16 bits."""
    source, cache = FolderSource(odd / "train"), tmp_path / "index.npz"

    def index() -> bool:
        return index_images(source, source.listing(), cache, threads=1, progress=Silent()).decoding_matters

    assert index()
    with np.load(cache) as table:
        earlier = {key: value for key, value in table.items() if key != "kind"}
    np.savez(cache, **earlier)
    assert index()


def test_numbers_of_32_bits_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, dtype in (("1.tif", np.float32), ("2.tif", np.int32)):
        Image.fromarray(np.full((8, 8), 0.5, dtype)).save(tmp_path / name)
    source = FolderSource(tmp_path)
    index_images(source, source.listing(), tmp_path / "index.npz", threads=1, progress=Silent())
    (message,) = caplog.messages
    assert message.startswith(f"2 of 2 images have 32 bits ('{tmp_path}/1.tif' first); what is below 0 or above 255 is")


def test_images_of_few_bits_in_files_of_sixteen_are_warned_of(
    tmp_path: Path, embedded: Embedded, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "data" / "train" / "a"
    place.mkdir(parents=True)
    ramp = np.linspace(0, 4095, 400, dtype=np.uint16).reshape(20, 20)
    for name, values in (("microscope.png", ramp), ("photo.png", ramp * 16)):
        Image.fromarray(values).save(place / name)
    store = embedded(tmp_path / "data", tmp_path / "s.zarr", split=("train",))
    first = tmp_path / "data/train/a/microscope.png"
    assert f"reach 4,095 at most ('{first}'" in caplog.text
    assert store["train"].views[0]["decoding"] == 2
