"""Networks by name, without their classifier, with initial or published weights.

``NAME`` is torchvision's, ``timm/NAME`` timm's. ``NAME-32px`` is torchvision's network adapted to small images, with
the same parameter names. ``resnet50-wN`` has N times the channels; ``-tf-same`` pads its max-pool as TensorFlow does.
``resnet18-narrow-32px`` has half the channels and a first convolution of stride 2: a teacher that a CPU can train.
``conv4-W`` is the four-layer network of few-shot learning with W channels. ``NAME-32px-solo-learn`` is a ResNet as
solo-learn adapts it to CIFAR; ``vit_small_patch16-12heads`` is MoCo v3's ViT-S.
"""

import logging
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
SOLO_LEARN = f"{SMALL_IMAGES}-solo-learn"

TWELVE_HEADS = {f"{TIMM}vit_{size}_patch16_224": f"vit_{size}_patch16-12heads" for size in ("tiny", "small")}
"""timm's ViTs, with 3 and 6 heads, to those of the same shapes with 12."""

SOLO_LEARN_CIFAR10 = Preprocessing((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 32, 32)
"""As solo-learn's solo/data/pretrain_dataloader.py, commit 9187ea3."""

LISTED_BY, TIMM_LISTED_BY = "compress-ssl models '*PART-OF-NAME*'", "compress-ssl models 'timm/*PART-OF-NAME*'"

OURS: dict[str, Callable[[], Backbone]] = {
    **{f"conv4-{width}": partial(conv4, width) for width in (16, 32, 64, 128)},
    f"resnet18-narrow{SMALL_IMAGES}": narrow_resnet,
    **{f"resnet50-w{width}": partial(wide_resnet50, width) for width in (2, 4, 5)},
    "resnet50-tf-same": partial(wide_resnet50, 1, tf_same=True),
    **{f"resnet50-w{width}-tf-same": partial(wide_resnet50, width, tf_same=True) for width in (2, 4)},
    **{ours: partial(timm_backbone, name.removeprefix(TIMM), num_heads=12) for name, ours in TWELVE_HEADS.items()},
}

logger = logging.getLogger(__name__)


def architecture_names() -> list[str]:
    """Return every name that ``build_backbone`` takes, except timm's."""
    # These do not end in one linear layer on one feature vector.
    unsuitable = {"googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1"}
    names = [name for name in models.list_models(module=models) if name not in unsuitable]
    adapted = re.compile(r"(resnet|resnext|wide_resnet)\d+|mobilenet_v2$|alexnet$")
    small = [f"{name}{SMALL_IMAGES}" for name in names if adapted.match(name)]
    return sorted([*names, *small, *(f"{name}{SOLO_LEARN}" for name in names if name.startswith("resnet")), *OURS])


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
        base = name.removesuffix(SOLO_LEARN).removesuffix(SMALL_IMAGES)
        network = models.get_model(base, weights=None)
        if name != base:
            adapt_to_small_images(network, padding=2 if name.endswith(SOLO_LEARN) else 1)
        return without_head(network)


def default_preprocessing(architecture: str) -> Preprocessing:
    """Return the preprocessing of an architecture whose weights have no other.

    timm lists it for its networks; solo-learn has CIFAR-10's; all others have ImageNet's, those for small images at 32
    pixels.
    """
    if architecture.endswith(SOLO_LEARN):
        return SOLO_LEARN_CIFAR10
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
    return _evaluated_with(models.get_model_weights(name).DEFAULT)


def preprocessing_of_torchvision_file(name: str, sha256: str) -> Preprocessing | None:
    """Return the preprocessing of a file of torchvision, whose name has the start of its SHA-256; None if unknown."""
    published = [each for each in models.get_model_weights(name) if each.url.endswith(f"-{sha256[:8]}.pth")]
    return _evaluated_with(published[0]) if published else None


def _evaluated_with(weights: models.WeightsEnum) -> Preprocessing:
    transforms = weights.transforms()
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
    if any("QuickGELU" in note for note in published.notes or ()):
        logger.warning(
            "The weights of %s were trained with another GELU; %s has the features they were published for.",
            name, name.replace("_clip_", "_clip_quickgelu_"),
        )  # fmt: skip
    try:
        if published.hf_hub_id:
            _reach_hub(published.hf_hub_id)
        backbone = timm_backbone(model, pretrained=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        source = f"https://huggingface.co/{published.hf_hub_id}" if published.hf_hub_id else published.url
        raise InputError(
            f"The weights of {name} cannot be loaded ({str(error).splitlines()[0]}); download the model.safetensors of "
            f"{source} and give {name}:PATH, or set HF_HOME to a cache that has it."
        ) from error
    return backbone, timm_preprocessing(model)


def _reach_hub(hub_id: str) -> None:
    """Raise ``OSError`` at once if weights are not in the cache and the hub does not answer: timm tries 12 times."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    repository, _, revision = hub_id.partition("@")
    files = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    if any(isinstance(try_to_load_from_cache(repository, file, revision=revision or None), str) for file in files):
        return
    client = logging.getLogger("huggingface_hub")
    level = client.level
    client.setLevel(logging.ERROR)
    try:
        get_hf_file_metadata(hf_hub_url(repository, files[0], revision=revision or None))
    except HfHubHTTPError:
        pass  # it answers: timm says what it lacks
    except Exception as error:  # of whichever client the hub's library has
        raise OSError(f"the Hugging Face hub cannot be reached: {error}") from error
    finally:
        client.setLevel(level)
