"""Published weights by name, from torchvision's servers or the Hugging Face hub, or the caches of both."""

from __future__ import annotations

import pickle

import torch
from torchvision import models

from compress_ssl.pipeline.common.errors import InputError, unknown_name
from compress_ssl.pipeline.networks.architectures import LISTED_BY, TIMM, architecture_names, check_architecture
from compress_ssl.pipeline.networks.backbone import Backbone, without_head
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.pipeline.networks.timm_models import timm_backbone, timm_preprocessing


def check_torchvision(name: str) -> None:
    """Check that torchvision has weights of this name.

    Raises
    ------
    InputError
        If it has none; names the nearest.
    """
    known = sorted(set(architecture_names()) & set(models.list_models(module=models)))
    if name not in known:
        raise unknown_name("torchvision network", name, known, listed_by=LISTED_BY)


def torchvision_pretrained(name: str) -> tuple[Backbone, Preprocessing]:
    """A network with torchvision's default weights, and what they were evaluated with.

    Raises
    ------
    InputError
        If the weights cannot be had, or are damaged.
    """
    check_torchvision(name)
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
    return without_head(module), torchvision_preprocessing(name)


def torchvision_preprocessing(name: str) -> Preprocessing:
    """What torchvision's default weights of a network were evaluated with."""
    wants = models.get_model_weights(name).DEFAULT.transforms()
    return Preprocessing(
        tuple(wants.mean),
        tuple(wants.std),
        wants.crop_size[0],
        wants.resize_size[0],
        "bicubic" if wants.interpolation.value == "bicubic" else "bilinear",
    )


def timm_pretrained(name: str) -> tuple[Backbone, Preprocessing]:
    """A network ``timm/NAME`` with the weights that timm names for it, and what they were evaluated with.

    Raises
    ------
    InputError
        If there is no such network, it has no published weights, or they cannot be had.
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
            f"The weights of {name} cannot be had ({str(error).splitlines()[0]}); fetch the model.safetensors of {source} "
            f"and give {name}:PATH, or HF_HOME the folder of a cache that has it."
        ) from error
    return backbone, timm_preprocessing(model)
