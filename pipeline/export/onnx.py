"""ONNX export: ``images`` float32 RGB (N, 3, S, S) in [0, 1] to ``features`` (N, F), normalization included.

torch's exporter writes the file; its features are compared with torch's on photographs, in two batch sizes.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from compress_ssl.pipeline.common.errors import InputError, RunError
from compress_ssl.pipeline.networks.network import Network
from compress_ssl.pipeline.networks.pooling import pooled_features
from compress_ssl.pipeline.networks.preprocessing import Preprocessing

TOLERANCE = 1e-4  # largest accepted difference of a feature between torch and ONNX, relative to the largest feature

LARGEST_FILE = 2**31 - 2**24
"""Bytes of weights above which they are stored in a second file, because protobuf is limited to 2 GiB."""


class Agreement(NamedTuple):
    """Difference of the features of ONNX from torch's."""

    images: int
    largest_difference: float  # of a feature
    largest_feature: float

    @property
    def relative(self) -> float:
        """The largest difference relative to the largest feature."""
        return self.largest_difference / self.largest_feature if self.largest_feature else self.largest_difference


class NormalizedNetwork(nn.Module):
    """A network preceded by its normalization."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network, self.pool = network.module, network.pool
        self.register_buffer("mean", torch.tensor(network.preprocessing.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(network.preprocessing.std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (N, F) of images (N, 3, S, S) in [0, 1]."""
        return pooled_features(self.network, (images - self.mean) / self.std, self.pool)


def write_onnx(network: Network, path: Path) -> Agreement:
    """Write a network, in evaluation mode on the CPU, as an ONNX file for any batch size, and compare it with torch.

    Raises:
        InputError: If torch cannot export it.
        RunError: If the features of onnxruntime differ from torch's.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    size = network.preprocessing.size
    try:
        program = torch.onnx.export(
            NormalizedNetwork(network).eval(),
            (torch.zeros(2, 3, size, size),),
            dynamo=True,
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{network.architecture} cannot be written as ONNX ({reason}); export with --no-onnx."
        ) from error
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)  # torch records the source line of every node, with local paths
    weights = sum(tensor.nbytes for tensor in network.module.state_dict().values())
    program.save(path, external_data=weights > LARGEST_FILE)
    agreement = compare(network, path)
    if not agreement.largest_difference <= TOLERANCE * agreement.largest_feature:  # true for NaN as well
        raise RunError(
            f"onnxruntime's features of {agreement.images} photographs differ from torch's by up to "
            f"{agreement.largest_difference:.2g} where the largest is {agreement.largest_feature:.2g}; nothing was "
            "written: export with --no-onnx, or look for weights that are not finite."
        )
    return agreement


def compare(network: Network, path: Path) -> Agreement:
    """Compare the features of an ONNX file with its network's on photographs, singly and in a batch."""
    import onnxruntime  # type: ignore[import-untyped]  # comes without types

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    photographs = sample_photographs(network.preprocessing)
    differences, sizes = [], []
    for batch in (photographs[:1], photographs):
        with torch.inference_mode():
            expected = network.features(batch).numpy()
        images = (batch.permute(0, 3, 1, 2).float() / 255).numpy()
        (features,) = session.run(["features"], {"images": images})
        differences.append(np.abs(features - expected).max())
        sizes.append(np.abs(expected).max())
    return Agreement(len(photographs), float(np.max(differences)), float(np.max(sizes)))


def sample_photographs(preprocessing: Preprocessing) -> Tensor:
    """Return crops of scikit-learn's two photographs, uint8 (8, S, S, 3), resized by a network's preprocessing."""
    from PIL import Image
    from sklearn.datasets import load_sample_images
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    size, resize = preprocessing.size, max(preprocessing.resize, preprocessing.size)
    interpolation = InterpolationMode(preprocessing.interpolation)
    sides = [resize, resize] if preprocessing.squash else resize
    crops = []
    for photograph in load_sample_images().images:
        pixels = np.asarray(F.resize(Image.fromarray(photograph), sides, interpolation))
        top = (pixels.shape[0] - size) // 2
        lefts = np.linspace(0, pixels.shape[1] - size, 4).astype(int)
        crops += [pixels[top : top + size, left : left + size] for left in lefts]
    return torch.from_numpy(np.stack(crops))
