"""Networks with their preprocessing, loaded by reference: a run, a checkpoint file, published weights, or untrained."""

import difflib
import hashlib
import importlib.util
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress_ssl.pipeline.common.errors import InputError, unknown_name
from compress_ssl.pipeline.common.run_files import BEST_FOLDER, EPOCH_FOLDER, MODEL_FILE
from compress_ssl.pipeline.common.tensor_files import not_finite, safetensors_bytes
from compress_ssl.pipeline.common.torch_errors import is_out_of_memory
from compress_ssl.pipeline.networks.architectures import (
    LISTED_BY,
    TIMM,
    architecture_names,
    build_backbone,
    check_architecture,
    check_torchvision,
    default_preprocessing,
    timm_pretrained,
)
from compress_ssl.pipeline.networks.checkpoints.file import GET_AGAIN, CheckpointFile, read_checkpoint_file
from compress_ssl.pipeline.networks.checkpoints.layouts import LAYOUTS, Weights, find_weights
from compress_ssl.pipeline.networks.checkpoints.load import LoadedCheckpoint, architecture_of, load_weights
from compress_ssl.pipeline.networks.checkpoints.names import NAMES
from compress_ssl.pipeline.networks.checkpoints.sharded import refuse_shards
from compress_ssl.pipeline.networks.checkpoints.variants import built_as, preprocessing_of, warn_of_variants
from compress_ssl.pipeline.networks.pooling import authors_pool, check_pool, forward_pool, pooled_features
from compress_ssl.pipeline.networks.preprocessing import Preprocessing, PreprocessingRecord
from compress_ssl.pipeline.networks.reference import REFERENCE_FORMS, Reference, parse_reference
from compress_ssl.pipeline.networks.teachers import TEACHERS
from compress_ssl.pipeline.networks.user_networks import (
    REGISTERED,
    build_function,
    entry_points_by_name,
    function_of,
    user_network,
)
from compress_ssl.storage.places.place import location
from compress_ssl.storage.typed_json import FileModel, parse_json

USERS_OUTPUT = "the module's output"  # what is stored of a user's network

HEADER = "compress_ssl"  # key of the metadata of ``model.safetensors`` that holds architecture and preprocessing


@dataclass(frozen=True)
class Network:
    """A network that returns features, with its preprocessing."""

    name: str  # its name in tables and stores; never a path of this machine
    architecture: str
    module: nn.Module
    feature_dim: int
    preprocessing: Preprocessing
    checkpoint: LoadedCheckpoint | None = None  # the file of another program that the weights come from
    feature_layer: str = "the input of the last linear layer"
    pool: str | None = None  # of its tokens; None: as its forward pass does, and for a network that has no choice
    own_pool: str | None = None  # what its authors evaluate, or its file records; None: as its forward pass does

    def features(self, images: Tensor) -> Tensor:
        """Return the features (B, F) of uint8 images (B, S, S, 3)."""
        return pooled_features(self.module, self.preprocessing.normalize(images), self.pool)

    def check_size(self, size: int) -> None:
        """Raise ``InputError`` if the network does not accept images of this size, in pixels."""
        mode = self.module.training
        device = next(self.module.parameters()).device
        try:
            with torch.inference_mode():
                self.module.eval()(torch.zeros(1, 3, size, size, device=device))
        except (RuntimeError, AssertionError) as error:
            if is_out_of_memory(error):
                raise
            raise InputError(
                f"{self.architecture} cannot take images of {size} pixels ({str(error).partition(chr(10))[0]}); take "
                "another size or another network."
            ) from error
        self.module.train(mode)

    def identity(self) -> dict[str, Any]:
        """Return all that determines the features: architecture, hash of the weights, pool, preprocessing."""
        file = self.checkpoint
        return {
            "architecture": self.architecture,
            "weights_sha256": weights_sha256(self.module),
            **({"pool": self.pool} if self.pool else {}),
            "feature_layer": self.feature_layer,
            "feature_dim": self.feature_dim,
            "mean": list(self.preprocessing.mean),
            "std": list(self.preprocessing.std),
            "interpolation": self.preprocessing.interpolation,
            **({"checkpoint": file.identity()} if file else {}),
        }


def load_network(reference: str, seed: int = 0, pool: str | None = "own") -> Network:
    """Load a network.

    Args:
        reference: ``random/NAME`` for an untrained network; ``torchvision/NAME`` or ``timm/NAME`` for published
            weights; a run's folder or its ``model.safetensors``; a checkpoint of another program as ``NAME:PATH``
            (NAME: a teacher or an architecture), or its path alone if the file identifies its network. ``PATH#PART``
            chooses among its state dicts; ``torchvision/NAME:PATH`` is a file of torchvision; ``MODULE:FUNCTION``, or
            the name of a registered network, is a function that returns a module and its preprocessing.
        seed: Of the weights of ``random/NAME``: the initialization of a student trained with this seed. Of torch's
            generator while a function builds a network.
        pool: A pool of ``pooling``; ``own`` for what the network's authors evaluate (for ``random/NAME`` and networks
            of this program: as the forward pass does); None for what the forward pass does.

    Raises:
        InputError: If there is no such network, its file cannot be used, or it does not have this pool.
    """
    network = _load(reference, seed)
    if network.feature_layer == USERS_OUTPUT:  # which may be more than pooled tokens
        if pool not in ("own", None):
            raise InputError(
                f"The output of '{network.name}', which a function built, is taken as it is; leave --pool out."
            )
        return network
    forward = forward_pool(network.module)
    own = forward and (network.own_pool or forward)
    chosen = {"own": own, None: forward}.get(pool, pool)
    if chosen not in (None, forward):
        check_pool(network.module, network.architecture, chosen)
    if forward is None or chosen is None:
        return replace(network, own_pool=None)
    return replace(network, pool=chosen, own_pool=own, feature_dim=len(chosen.split("+")) * network.feature_dim)


def _load(reference: str, seed: int) -> Network:
    parsed = kind, name, path, _ = check_reference(reference)
    if path is not None:
        return _load_file(reference, parsed, path)
    assert name is not None
    if kind == "user":
        return Network(name, function_of(name), *user_network(name, seed), feature_layer=USERS_OUTPUT)
    if kind == "random":
        return Network(f"{name}, untrained", name, *build_backbone(name, seed), default_preprocessing(name))
    if kind == "torchvision":
        from compress_ssl.pipeline.networks.torchvision_models import torchvision_pretrained

        backbone, preprocessing = torchvision_pretrained(name)
    else:
        backbone, preprocessing = timm_pretrained(name)
    title = f"{kind} {name.removeprefix(TIMM)}"
    return Network(title, name, *backbone, preprocessing, own_pool=authors_pool(name))


def check_reference(reference: str) -> Reference:
    """Check the names of a reference, and that the file of ``NAME:PATH`` exists, without reading a file of weights.

    A path alone need not exist: an earlier step of a recipe may be about to write it.

    Raises:
        InputError: If a name is unknown (names the nearest), or the file does not exist.
    """
    parsed = kind, name, path, _ = parse_reference(reference)
    if name is None:
        return parsed
    if kind == "user":
        module, _, _ = name.partition(":")
        if (near := difflib.get_close_matches(module, [*TEACHERS, *architecture_names()], n=1, cutoff=0.8)) and (
            importlib.util.find_spec(module.partition(".")[0]) is None
        ):
            raise InputError(f"There is neither a module '{module}' nor a network of this name; give {near[0]}:FILE.")
        build_function(name)
    elif kind == "torchvision":
        check_torchvision(name)
    elif path is None or name.startswith(TIMM):
        check_architecture(name)
    elif name not in TEACHERS and name not in architecture_names():
        raise unknown_name("teacher or architecture", name, [*TEACHERS, *architecture_names()], listed_by=LISTED_BY)
    if path is not None and not path.exists():
        advice = f"download it from {TEACHERS[name].weights}" if name in TEACHERS else "check the path"
        raise InputError(f"The file '{path}' with the weights of {name} does not exist; {advice}.")
    return parsed


def _load_file(reference: str, parsed: Reference, path: Path) -> Network:
    if not path.exists():
        problem = f"The network '{reference}' is not {REFERENCE_FORMS}; check the path."
        if reference in TEACHERS:
            source = TEACHERS[reference].weights
            problem = f"The teacher '{reference}' needs a file of weights; download {source} and give {reference}:PATH."
        elif reference in architecture_names():
            problem = (
                f"The architecture '{reference}' needs weights; give torchvision/{reference} for trained ones, "
                f"random/{reference} for untrained ones, or the path of a run."
            )
        elif near := difflib.get_close_matches(reference, [*REGISTERED, *entry_points_by_name(), *TEACHERS], n=1):
            problem = f"{problem.removesuffix('.')}. Did you mean '{near[0]}'?"
        raise InputError(problem)
    file = path / MODEL_FILE if path.is_dir() else path
    if path.is_file() or not file.is_file():
        refuse_shards(path)
    if path.is_dir() and not file.is_file():
        raise InputError(f"'{path}' holds no {MODEL_FILE}; it is not a finished run (use --resume to finish it).")
    checkpoint = read_checkpoint_file(file)
    if parsed.name is None and parsed.part is None and HEADER in checkpoint.metadata:
        network = _load_own_format(checkpoint)
    elif parsed.kind == "torchvision":
        network = _load_torchvision(checkpoint, parsed)
    else:
        network = _load_foreign_format(checkpoint, parsed.name, parsed.part)
    if wrong := not_finite(network.module):
        raise InputError(f"The weights '{wrong}' in '{file}' are not finite; {GET_AGAIN}.")
    return network


class _Header(FileModel):
    architecture: str
    preprocessing: PreprocessingRecord
    pool: str | None = None  # there only if it is not what the forward pass does


def _load_own_format(file: CheckpointFile) -> Network:
    header = parse_json(
        file.path, file.metadata[HEADER], _Header, otherwise="give the model.safetensors of a run of this release"
    )
    architecture = header.architecture
    preprocessing = Preprocessing(**header.preprocessing.model_dump())
    try:
        backbone = build_backbone(architecture, seed=None)
    except InputError as error:
        raise InputError(
            f"'{file.path}' holds a '{architecture}', which this release does not know; upgrade compress-ssl."
        ) from error
    try:
        backbone.module.load_state_dict(file.content)
    except RuntimeError as error:
        raise InputError(f"'{file.path}' does not fit {architecture}: {str(error).splitlines()[-1].strip()}") from error
    return Network(_name_of(file.path), architecture, *backbone, preprocessing, own_pool=header.pool)


def _load_torchvision(file: CheckpointFile, parsed: Reference) -> Network:
    """Return a network with one of the files that torchvision has published for it, whichever version."""
    from compress_ssl.pipeline.networks.torchvision_models import preprocessing_of_torchvision_file

    assert parsed.name is not None
    preprocessing = preprocessing_of_torchvision_file(parsed.name, file.sha256)
    if preprocessing is None:
        raise InputError(
            f"'{file.path}' is none of torchvision's files of {parsed.name}, by its SHA-256; give {parsed.name}:PATH "
            "for weights of another origin."
        )
    backbone, loaded = load_weights(file, find_weights(file, parsed.part), parsed.name)
    return Network(f"torchvision {parsed.name}", parsed.name, *backbone, preprocessing, loaded)


def _load_foreign_format(file: CheckpointFile, name: str | None, part: str | None) -> Network:
    weights = find_weights(file, part)
    name = name or _identify(file, weights)
    teacher = TEACHERS.get(name)
    if teacher is None:
        architecture = built_as(name, weights)
        warn_of_variants(file, weights, architecture)
        backbone, loaded = load_weights(file, weights, architecture)
        preprocessing = preprocessing_of(architecture, weights)
        of_file = _name_of(file.path) + (f"#{part}" if part else "")
        return Network(of_file, architecture, *backbone, preprocessing, loaded, own_pool=authors_pool(architecture))
    of_layout = [other for other in TEACHERS if weights.layout in TEACHERS[other].layouts]
    known = LAYOUTS[weights.layout].preprocessing
    if known is not None and of_layout and name not in of_layout:
        raise InputError(f"'{file.path}' has the layout of {', '.join(of_layout)}, not of {name}; give one of these.")
    if known not in (None, teacher.preprocessing):
        raise InputError(
            f"'{file.path}' has the layout {weights.layout}, whose images are normalized otherwise than {name}'s; give "
            f"{teacher.architecture}:PATH."
        )
    backbone, loaded = load_weights(file, weights, teacher.architecture)
    return Network(name, teacher.architecture, *backbone, teacher.preprocessing, loaded)


def _identify(file: CheckpointFile, weights: Weights) -> str:
    """Return the teacher or architecture of a file that was given without a name, by its keys and shapes."""
    architecture = architecture_of(weights.backbone)
    if architecture is None:
        raise InputError(
            f"'{file.path}' (layout {weights.layout}) matches no architecture that is recognised by its shapes (its "
            f"keys are {', '.join(list(weights.backbone)[:3])}, ...); give NAME:PATH with its architecture to see what "
            "differs."
        )
    alike = [name for name, teacher in TEACHERS.items() if teacher.architecture == architecture]
    one_preprocessing = weights.names is not None and NAMES[weights.names].one_preprocessing
    if LAYOUTS[weights.layout].preprocessing is None and not one_preprocessing:
        raise InputError(
            f"'{file.path}' holds a {architecture}, but its layout does not identify the method and so the "
            f"preprocessing; give NAME:PATH, NAME one of {', '.join([*alike, architecture])} ({architecture}: "
            "normalized as by torchvision or timm)."
        )
    of_layout = [name for name in alike if weights.layout in TEACHERS[name].layouts]
    return of_layout[0] if len(of_layout) == 1 else architecture


def save_network(path: Path, network: Network) -> None:
    """Write a network's weights as safetensors; those of a torchvision architecture load into torchvision's.

    Raises:
        InputError: If the network is a user's, which no file can describe.
    """
    if network.feature_layer == USERS_OUTPUT:
        raise InputError(
            f"'{network.name}' is built by a function, and a file has only weights; save its state dict by torch.save."
        )
    preprocessing = asdict(network.preprocessing)
    if not network.preprocessing.squash:
        del preprocessing["squash"]
    header: dict[str, Any] = {"architecture": network.architecture, "preprocessing": preprocessing}
    if network.pool not in (None, forward_pool(network.module)):
        header["pool"] = network.pool
    metadata = {"format": "pt", HEADER: json.dumps(header, sort_keys=True)}
    location(path).write_durably(safetensors_bytes(network.module.state_dict(), metadata))


def _name_of(file: Path) -> str:
    """Return a run's folder for its network, RUN/best or RUN/epoch-N for earlier ones, else the name of the file."""
    if file.name != MODEL_FILE:
        return file.name.partition(".")[0]
    run = file.parent.resolve()
    is_earlier = run.name == BEST_FOLDER or run.name.startswith(EPOCH_FOLDER.partition("{")[0])
    return f"{run.parent.name}/{run.name}" if is_earlier else run.name


def weights_sha256(module: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
