"""A network ready to use, found by a reference: a run, a checkpoint of any origin, published weights, or none at all."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save

from compress_ssl.pipeline.common.errors import InputError, unknown_name
from compress_ssl.pipeline.common.run_files import BEST_FOLDER, EPOCH_FOLDER, MODEL_FILE
from compress_ssl.pipeline.networks.architectures import (
    LISTED_BY,
    TIMM,
    architecture_names,
    build_backbone,
    check_architecture,
    default_preprocessing,
)
from compress_ssl.pipeline.networks.checkpoints.file import read_checkpoint_file
from compress_ssl.pipeline.networks.checkpoints.layouts import LAYOUTS, find_weights
from compress_ssl.pipeline.networks.checkpoints.load import architecture_of, load_weights
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.pipeline.networks.pretrained import check_torchvision, timm_pretrained, torchvision_pretrained
from compress_ssl.pipeline.networks.reference import REFERENCE_FORMS, parse_reference
from compress_ssl.pipeline.networks.teachers import TEACHERS
from compress_ssl.storage.places.durable import write_durably

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from compress_ssl.pipeline.networks.checkpoints.file import CheckpointFile
    from compress_ssl.pipeline.networks.checkpoints.layouts import Weights
    from compress_ssl.pipeline.networks.checkpoints.load import LoadedCheckpoint
    from compress_ssl.pipeline.networks.reference import Reference

HEADER = "compress_ssl"
"""Where a network of ours says what it is, in its file's metadata."""


@dataclass(frozen=True)
class Network:
    """A network that gives features, with what it wants to see."""

    name: str
    """What it is called in tables and stores; never a path of this machine."""
    architecture: str
    module: nn.Module
    feature_dim: int
    preprocessing: Preprocessing
    checkpoint: LoadedCheckpoint | None = None
    """What was taken from a file that another program wrote."""

    def features(self, images: Tensor) -> Tensor:
        """Features (B, F) of uint8 images (B, S, S, 3)."""
        features: Tensor = self.module(self.preprocessing.normalize(images))
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
            "interpolation": self.preprocessing.interpolation,
            **({} if self.checkpoint is None else {"checkpoint": self.checkpoint.identity()}),
        }


def load_network(reference: str, seed: int = 0) -> Network:
    """Find a network.

    Parameters
    ----------
    reference : str
        ``random/NAME`` for an untrained network; ``torchvision/NAME`` or ``timm/NAME`` for published weights; a run's folder
        or its ``model.safetensors``; a checkpoint of another program as ``NAME:PATH`` (NAME: a teacher or an architecture),
        or only its path where the file says what it holds.
    seed : int
        Draws the weights of ``random/NAME``: the initialisation of a student trained with this seed.

    Raises
    ------
    InputError
        If there is no such network, or its file cannot be used.
    """
    kind, name, path = check_reference(reference)
    if path is not None:
        if not path.exists():
            raise _not_there(reference)
        return _network_of_file(name, path)
    assert name is not None
    if kind == "random":
        return Network(f"{name}, untrained", name, *build_backbone(name, seed), default_preprocessing(name))
    backbone, preprocessing = torchvision_pretrained(name) if kind == "torchvision" else timm_pretrained(name)
    return Network(f"{kind} {name.removeprefix(TIMM)}", name, *backbone, preprocessing)


def check_reference(reference: str) -> Reference:
    """Check the names of a reference, and that the file of ``NAME:PATH`` is there; nothing is read.

    A path alone is not looked for: the step before may be going to make it.

    Raises
    ------
    InputError
        If a name is unknown (names the nearest), or the file does not exist.
    """
    parsed = kind, name, path = parse_reference(reference)
    if name is None:
        return parsed
    if kind == "torchvision":
        check_torchvision(name)
    elif path is None or name.startswith(TIMM):
        check_architecture(name)
    elif name not in TEACHERS and name not in architecture_names():
        raise unknown_name("teacher or architecture", name, [*TEACHERS, *architecture_names()], listed_by=LISTED_BY)
    if path is not None and not path.exists():
        fetch = f"fetch it from {TEACHERS[name].weights}" if name in TEACHERS else "check the path"
        raise InputError(f"'{path}', which is to hold the weights of {name}, does not exist; {fetch}.")
    return parsed


def _not_there(reference: str) -> InputError:
    if reference in TEACHERS:
        return InputError(
            f"'{reference}' says nothing of where its weights are; fetch {TEACHERS[reference].weights} and write "
            f"{reference}:PATH."
        )
    if reference in architecture_names():
        return InputError(
            f"'{reference}' says nothing of its weights; write torchvision/{reference} for trained ones, "
            f"random/{reference} for untrained ones, or the path of a run."
        )
    return InputError(f"The network '{reference}' is not {REFERENCE_FORMS}; check the path.")


def _network_of_file(name: str | None, path: Path) -> Network:
    file = path / MODEL_FILE if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise InputError(f"'{path}' holds no {MODEL_FILE}; it is not a finished run (go on with it by --resume).")
    opened = read_checkpoint_file(file)
    if name is None and HEADER in opened.metadata:
        return _our_network(opened)
    return _foreign_network(name, opened)


def _our_network(file: CheckpointFile) -> Network:
    try:
        header = json.loads(file.metadata[HEADER])
        architecture, wants = header["architecture"], header["preprocessing"]
        preprocessing = Preprocessing(**{**wants, "mean": tuple(wants["mean"]), "std": tuple(wants["std"])})
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"'{file.path}' was not written by this release of compress-ssl: its header does not name the architecture and "
            "what it wants to see; give a model.safetensors of a run."
        ) from error
    try:
        backbone = build_backbone(architecture)
    except InputError as error:
        raise InputError(
            f"'{file.path}' holds a '{architecture}', which this release does not know; upgrade compress-ssl."
        ) from error
    try:
        backbone.module.load_state_dict(file.content)
    except RuntimeError as error:
        raise InputError(f"'{file.path}' does not fit {architecture}: {str(error).splitlines()[-1].strip()}") from error
    return Network(_name_of(file.path), architecture, *backbone, preprocessing)


def _foreign_network(name: str | None, file: CheckpointFile) -> Network:
    weights = find_weights(file)
    tells = LAYOUTS[weights.layout].preprocessing
    if name is None:
        name = _name_told(file, weights)
    teacher = TEACHERS.get(name)
    if teacher is None:
        architecture, preprocessing = name, tells or default_preprocessing(name)
    else:
        architecture, preprocessing = teacher.architecture, teacher.preprocessing
        _check_method(name, file, weights.layout)
    backbone, loaded = load_weights(file, weights, architecture)
    return Network(name if teacher else _name_of(file.path), architecture, *backbone, preprocessing, loaded)


def _name_told(file: CheckpointFile, weights: Weights) -> str:
    """The teacher or architecture of a file that was given without a name, if its keys tell."""
    fitting = architecture_of(weights.backbone)
    if fitting is None:
        raise InputError(
            f"'{file.path}' (layout {weights.layout}) holds no network that is known by its shapes (its keys are "
            f"{', '.join(list(weights.backbone)[:3])}, ...); give NAME:PATH with its architecture to see what differs."
        )
    alike = [name for name, teacher in TEACHERS.items() if teacher.architecture == fitting]
    if LAYOUTS[weights.layout].preprocessing is None:
        raise InputError(
            f"'{file.path}' holds a {fitting}, but does not say how it was trained and so what it wants to see; give "
            f"NAME:PATH, NAME one of {', '.join([*alike, fitting])} ({fitting}: as torchvision or timm normalise)."
        )
    told = [name for name in alike if weights.layout in TEACHERS[name].layouts]
    return told[0] if len(told) == 1 else fitting


def _check_method(name: str, file: CheckpointFile, layout: str) -> None:
    """Check that a file is not laid out as another method's are; layouts of any method are taken for each."""
    of = [teacher for teacher in TEACHERS if layout in TEACHERS[teacher].layouts]
    if LAYOUTS[layout].preprocessing is not None and of and name not in of:
        raise InputError(f"'{file.path}' has the layout of {', '.join(of)}, not of {name}; give one of these names.")


def save_network(path: Path, network: Network) -> None:
    """Write a network's weights as safetensors; a torchvision architecture loads into plain torchvision."""
    # Copied: a few of timm's networks (CoaT) have one tensor under several names, which safetensors refuses.
    state = network.module.state_dict()
    tensors = {key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for key, tensor in state.items()}
    metadata = {
        "format": "pt",
        HEADER: json.dumps(
            {"architecture": network.architecture, "preprocessing": asdict(network.preprocessing)}, sort_keys=True
        ),
    }
    write_durably(path, save(tensors, metadata))


def _name_of(file: Path) -> str:
    """A network is called by its run's folder, an earlier state of it by both, any other by its file."""
    if file.name != MODEL_FILE:
        return file.name.partition(".")[0]
    run = file.parent.resolve()
    is_earlier = run.name == BEST_FOLDER or run.name.startswith(EPOCH_FOLDER.partition("{")[0])
    return f"{run.parent.name}/{run.name}" if is_earlier else run.name


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 of all parameters and buffers: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
