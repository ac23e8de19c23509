"""A network ready to use, found by a reference: a run or file of ours, ``torchvision/NAME``, ``random/NAME``."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pipeline.errors import InputError, unknown_name
from pipeline.networks.architectures import architecture_names, build_backbone
from pipeline.networks.backbone import Backbone, without_head
from pipeline.networks.preprocessing import Preprocessing
from storage.durable import write_durably

if TYPE_CHECKING:
    from torch import Tensor, nn

MODEL_FILE = "model.safetensors"
"""Where a run keeps its network: torchvision's own keys, no classifier, what it wants to see in the header."""

BEST_FOLDER, EPOCH_FOLDER = "best", "epoch-{:04d}"
"""Where a run keeps earlier states of its network, below its own folder."""


@dataclass(frozen=True)
class Network:
    """A network that gives features, with what it wants to see."""

    name: str
    """What it is called in tables and stores; never a path of this machine."""
    architecture: str
    module: nn.Module
    feature_dim: int
    preprocessing: Preprocessing

    def features(self, images: Tensor) -> Tensor:
        """Features (B, F) of uint8 images (B, S, S, 3)."""
        features: Tensor = self.module(self.preprocessing.normalise(images))
        return features

    def check_size(self, size: int) -> None:
        """Check that the network takes images of this size, in pixels.

        Raises
        ------
        InputError
            If it does not.
        """
        mode = self.module.training
        device = next(self.module.parameters()).device
        try:
            with torch.inference_mode():
                self.module.eval()(torch.zeros(1, 3, size, size, device=device))
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f"{self.architecture} cannot take images of {size} pixels ({str(error).partition(chr(10))[0]}); take "
                "another size or another network."
            ) from error
        self.module.train(mode)

    def identity(self) -> dict[str, Any]:
        """What decides its output: architecture, weights, preprocessing."""
        return {
            "architecture": self.architecture,
            "weights_sha256": weights_sha256(self.module),
            "feature_layer": "the input of the last linear layer",
            "feature_dim": self.feature_dim,
            "mean": list(self.preprocessing.mean),
            "std": list(self.preprocessing.std),
        }


def load_network(reference: str, seed: int = 0) -> Network:
    """Find a network.

    Parameters
    ----------
    reference : str
        A run's folder or its ``model.safetensors``; ``torchvision/NAME`` for torchvision's trained weights;
        ``random/NAME`` for untrained ones.
    seed : int
        Draws the weights of ``random/NAME``: the initialisation of a student trained with this seed.

    Raises
    ------
    InputError
        If there is no such network, or its file cannot be used.
    """
    kind, _, name = reference.partition("/")
    if kind == "random":
        return Network(f"{name}, untrained", name, *build_backbone(name, seed), Preprocessing())
    if kind == "torchvision":
        return _torchvision_network(name)
    path = Path(reference)
    if path.exists():
        return _read_network(path)
    if reference in architecture_names():
        raise InputError(
            f"'{reference}' says nothing of its weights; write torchvision/{reference} for trained ones, "
            f"random/{reference} for untrained ones, or the path of a run."
        )
    raise InputError(
        f"The network '{reference}' is neither a run's folder, a {MODEL_FILE}, torchvision/NAME nor random/NAME; "
        "check the path."
    )


def _torchvision_network(name: str) -> Network:
    from torchvision import models

    known = [known for known in architecture_names() if known in models.list_models(module=models)]
    if name not in known:
        raise unknown_name("torchvision network", name, known)
    weights = models.get_model_weights(name).DEFAULT
    try:
        # First as tensors only: torchvision itself would unpickle whatever lies at this place.
        weights.get_state_dict(check_hash=True, weights_only=True)
        module = models.get_model(name, weights=weights)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"The weights of torchvision/{name} cannot be had ({str(error).splitlines()[0]}); fetch {weights.url} into "
            f"'{torch.hub.get_dir()}/checkpoints', in place of what may be there."
        ) from error
    wants = weights.transforms()
    preprocessing = Preprocessing(tuple(wants.mean), tuple(wants.std), wants.crop_size[0], wants.resize_size[0])
    return Network(f"torchvision {name}", name, *without_head(module), preprocessing)


def save_network(path: Path, network: Network) -> None:
    """Write a network's weights as safetensors; a torchvision architecture loads into plain torchvision."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in network.module.state_dict().items()}
    metadata = {
        "format": "pt",
        "compress_ssl": json.dumps(
            {"architecture": network.architecture, "preprocessing": asdict(network.preprocessing)}, sort_keys=True
        ),
    }
    write_durably(path, save(tensors, metadata))


def _read_network(path: Path) -> Network:
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"'{path}' holds no {MODEL_FILE}; it is not a finished run (go on with it by --resume).")
    try:
        with safe_open(file, framework="pt") as opened:
            header = json.loads((opened.metadata() or {}).get("compress_ssl", "null"))
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(f"'{file}' is not a whole safetensors file ({error}); restore it or train again.") from error
    try:
        architecture, wants = header["architecture"], header["preprocessing"]
        preprocessing = Preprocessing(**{**wants, "mean": tuple(wants["mean"]), "std": tuple(wants["std"])})
    except (KeyError, TypeError) as error:
        raise InputError(
            f"'{file}' was not written by this release of compress-ssl: its header does not name the architecture and "
            "what it wants to see; give a model.safetensors of a run."
        ) from error
    if architecture not in architecture_names():
        raise InputError(f"'{file}' holds a '{architecture}', which this release does not know; upgrade compress-ssl.")
    backbone: Backbone = build_backbone(architecture)
    try:
        backbone.module.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"'{file}' does not fit {architecture}: {str(error).splitlines()[-1].strip()}") from error
    run = (file.parent if file.name == MODEL_FILE else file).resolve()
    return Network(_name_of(run), architecture, *backbone, preprocessing)


def _name_of(run: Path) -> str:
    """A network is called by its run's folder; an earlier state of it by both."""
    is_earlier = run.name == BEST_FOLDER or run.name.startswith(EPOCH_FOLDER.partition("{")[0])
    return f"{run.parent.name}/{run.name}" if is_earlier else run.name


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 of all parameters and buffers: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
