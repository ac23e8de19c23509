"""Networks by name, without their classifier, with initial or published weights.

``NAME`` is torchvision's, ``timm/NAME`` timm's. ``NAME-32px`` is torchvision's network adapted to small images, with
the same parameter names. ``resnet50-wN`` has N times the channels; ``-tf-same`` pads its max-pool as TensorFlow does.
``resnet18-narrow-32px`` has half the channels and a first convolution of stride 2: a teacher that a CPU can train.
``conv4-W`` is the four-layer network of few-shot learning with W channels.
"""

import pickle
import re
from collections.abc import Callable
from functools import partial

import torch
from torchvision import models

from compress_ssl.pipeline.common.errors import InputError, unknown_name
from compress_ssl.pipeline.networks.backbone import (
    Backbone,
    adapt_to_small_images,
    conv4,
    narrow_resnet,
    wide_resnet50,
    without_head,
)
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.pipeline.networks.timm_models import timm_backbone, timm_names, timm_preprocessing

TIMM = "timm/"

SMALL_IMAGES = "-32px"

LISTED_BY, TIMM_LISTED_BY = "compress-ssl models '*PART-OF-NAME*'", "compress-ssl models 'timm/*PART-OF-NAME*'"

OURS: dict[str, Callable[[], Backbone]] = {
    **{f"conv4-{width}": partial(conv4, width) for width in (16, 32, 64, 128)},
    f"resnet18-narrow{SMALL_IMAGES}": narrow_resnet,
    **{f"resnet50-w{width}": partial(wide_resnet50, width) for width in (2, 4, 5)},
    "resnet50-tf-same": partial(wide_resnet50, 1, tf_same=True),
    **{f"resnet50-w{width}-tf-same": partial(wide_resnet50, width, tf_same=True) for width in (2, 4)},
}


def architecture_names() -> list[str]:
    """Return every name that ``build_backbone`` takes, except timm's."""
    # These do not end in one linear layer on one feature vector.
    unsuitable = {"googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1"}
    names = [name for name in models.list_models(module=models) if name not in unsuitable]
    adapted = re.compile(r"(resnet|resnext|wide_resnet)\d+|mobilenet_v2$|alexnet$")
    return sorted([*names, *(f"{name}{SMALL_IMAGES}" for name in names if adapted.match(name)), *OURS])


def check_architecture(name: str) -> None:
    """Raise ``InputError``, naming the nearest, if there is no architecture of this name."""
    if name.startswith(TIMM):
        model = name.removeprefix(TIMM)
        if model not in timm_names():
            raise unknown_name("timm network", model, timm_names(), listed_by=TIMM_LISTED_BY)
    elif name not in architecture_names():
        raise unknown_name("architecture", name, architecture_names(), listed_by=LISTED_BY)


def build_backbone(name: str, seed: int = 0) -> Backbone:
    """Return a network with the initial weights of a seed; torch's global generator is left unchanged.

    Raises:
        InputError: If there is no such architecture; names the nearest.
    """
    check_architecture(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in OURS:
            return OURS[name]()
        if name.startswith(TIMM):
            return timm_backbone(name.removeprefix(TIMM))
        base = name.removesuffix(SMALL_IMAGES)
        network = models.get_model(base, weights=None)
        if name != base:
            adapt_to_small_images(network)
        return without_head(network)


def default_preprocessing(architecture: str) -> Preprocessing:
    """Return the preprocessing of an architecture whose weights have no other.

    timm lists it for its networks; all others have ImageNet's, those for small images at 32 pixels.
    """
    if architecture.startswith(TIMM):
        return timm_preprocessing(architecture.removeprefix(TIMM))
    return Preprocessing(size=32, resize=32) if architecture.endswith(SMALL_IMAGES) else Preprocessing()


def check_torchvision(name: str) -> None:
    """Raise ``InputError``, naming the nearest, if torchvision has no weights of this name."""
    known = sorted(set(architecture_names()) & set(models.list_models(module=models)))
    if name not in known:
        raise unknown_name("torchvision network", name, known, listed_by=LISTED_BY)


def torchvision_pretrained(name: str) -> tuple[Backbone, Preprocessing]:
    """Return a network with torchvision's default weights, and their preprocessing.

    Raises:
        InputError: If the weights cannot be downloaded, or are damaged.
    """
    check_torchvision(name)
    weights = models.get_model_weights(name).DEFAULT
    try:
        # Tensors only, before torchvision itself unpickles whatever file has this name.
        weights.get_state_dict(check_hash=True, weights_only=True)
        module = models.get_model(name, weights=weights)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"The weights of torchvision/{name} cannot be loaded ({str(error).splitlines()[0]}); download "
            f"{weights.url} to '{torch.hub.get_dir()}/checkpoints', replacing any file of that name."
        ) from error
    return without_head(module), torchvision_preprocessing(name)


def torchvision_preprocessing(name: str) -> Preprocessing:
    """Return the preprocessing that torchvision's default weights were evaluated with."""
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    return Preprocessing(
        tuple(transforms.mean),
        tuple(transforms.std),
        transforms.crop_size[0],
        transforms.resize_size[0],
        "bicubic" if transforms.interpolation.value == "bicubic" else "bilinear",
    )


def timm_pretrained(name: str) -> tuple[Backbone, Preprocessing]:
    """Return a network ``timm/NAME`` with the weights that timm lists for it, and their preprocessing.

    Raises:
        InputError: If there is no such network, it has no published weights, or they cannot be downloaded.
    """
    import timm
    from safetensors import SafetensorError

    check_architecture(name)
    model = name.removeprefix(TIMM)
    published = timm.get_pretrained_cfg(model)
    if published is None or not published.has_weights:
        raise InputError(f"timm has no weights of {model}; take a name with a tag (compress-ssl models '{name}*').")
    try:
        backbone = timm_backbone(model, pretrained=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        source = f"https://huggingface.co/{published.hf_hub_id}" if published.hf_hub_id else published.url
        raise InputError(
            f"The weights of {name} cannot be loaded ({str(error).splitlines()[0]}); download the model.safetensors of "
            f"{source} and give {name}:PATH, or set HF_HOME to a cache that has it."
        ) from error
    return backbone, timm_preprocessing(model)
