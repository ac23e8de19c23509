"""Published weights by name, from torchvision's servers or the Hugging Face hub, or from their caches."""

import pickle

import torch
from torchvision import models

from compress_ssl.pipeline.common.errors import InputError, unknown_name
from compress_ssl.pipeline.networks.architectures import LISTED_BY, TIMM, architecture_names, check_architecture
from compress_ssl.pipeline.networks.backbone import Backbone, without_head
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.pipeline.networks.timm_models import timm_backbone, timm_preprocessing


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
