"""Normalisation, against torchvision's transforms; what a network's file says of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torchvision.transforms import Compose, Normalize, ToTensor

from compress_ssl.pipeline.networks.network import load_network, save_network
from compress_ssl.pipeline.networks.preprocessing import Preprocessing

WANTED = [
    Preprocessing(),
    Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),  # SimCLR: values in [0, 1]
    Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.125)),
]


def test_pixels_are_normalised_as_torchvision_does() -> None:
    for wants in WANTED:
        pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
        pixels[0, 0, 0], pixels[0, 0, 1] = 0, 255
        transform = Compose([ToTensor(), Normalize(wants.mean, wants.std)])
        theirs = torch.stack([transform(Image.fromarray(image)) for image in pixels])
        ours = wants.normalize(torch.from_numpy(pixels))
        assert ours.shape == (5, 3, 16, 16)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_every_one_of_the_256_values_is_normalised_in_every_channel() -> None:
    wants = Preprocessing()
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    exact = (np.arange(256)[:, None] / 255 - np.array(wants.mean)) / np.array(wants.std)
    ours = wants.normalize(pixels).permute(0, 2, 3, 1).reshape(256, 3)
    np.testing.assert_allclose(ours.numpy(), exact, rtol=0, atol=1e-6)


def test_pixels_are_left_as_they_were_and_laid_out_for_convolutions() -> None:
    pixels = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    kept = pixels.clone()
    normalised = Preprocessing().normalize(pixels)
    assert torch.equal(pixels, kept)
    assert normalised.is_contiguous(memory_format=torch.channels_last)


def test_file_keeps_the_interpolation_and_one_without_it_is_bilinear(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_network(path, replace(load_network("random/conv4-16"), preprocessing=Preprocessing(interpolation="bicubic")))
    assert load_network(str(path)).preprocessing == Preprocessing(interpolation="bicubic")
    with safe_open(path, framework="pt") as opened:
        header = json.loads(opened.metadata()["compress_ssl"])
    del header["preprocessing"]["interpolation"]
    save_file(load_file(path), path, {"compress_ssl": json.dumps(header)})
    assert load_network(str(path)).preprocessing == Preprocessing()
