"""Networks by name, without their classifier, with initial or published weights.

``NAME`` is torchvision's, ``timm/NAME`` timm's. ``NAME-32px`` is torchvision's network adapted to small images, with
the same parameter names. ``resnet50-wN`` has N times the channels; ``-tf-same`` pads its max-pool as TensorFlow does.
``resnet18-narrow-32px`` has half the channels behind a first convolution of stride 2, ``resnet18-quarter-32px`` a
quarter; both can be trained on a CPU.
``conv4-W`` is the four-layer network of few-shot learning with W channels. ``NAME-32px-solo-learn`` is a ResNet as
solo-learn adapts it to CIFAR; ``vit_small_patch16-12heads`` is MoCo v3's ViT-S.
"""

import contextlib
import logging
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

from compress_ssl.pipeline.common.errors import InputError, unknown_name
from compress_ssl.pipeline.networks.backbone import SMALL_IMAGES, SOLO_LEARN, Backbone, conv4
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.pipeline.networks.timm_models import timm_backbone, timm_names, timm_preprocessing

TIMM = "timm/"

TWELVE_HEADS = {f"{TIMM}vit_{size}_patch16_224": f"vit_{size}_patch16-12heads" for size in ("tiny", "small")}
"""timm's ViTs, with 3 and 6 heads, to those of the same shapes with 12."""

SOLO_LEARN_CIFAR10 = Preprocessing((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 32, 32)
"""As solo-learn's solo/data/pretrain_dataloader.py, commit 9187ea3."""

LISTED_BY, TIMM_LISTED_BY = "compress-ssl models '*PART-OF-NAME*'", "compress-ssl models 'timm/*PART-OF-NAME*'"

OURS: dict[str, Callable[[], Backbone]] = {
    **{f"conv4-{width}": partial(conv4, width) for width in (16, 32, 64, 128)},
    **{ours: partial(timm_backbone, name.removeprefix(TIMM), num_heads=12) for name, ours in TWELVE_HEADS.items()},
}

RANDOM = {init.uniform_, init.normal_, init.kaiming_uniform_, Tensor.uniform_, Tensor.normal_, Tensor.erfinv_}
"""Functions that draw random weights or transform what was drawn; all other initialisations call one of them.

``init``'s are those that torch dispatches, and inside which a mode is off.
"""

logger = logging.getLogger(__name__)


def architecture_names() -> list[str]:
    """Return every name that ``build_backbone`` takes, except timm's."""
    from compress_ssl.pipeline.networks.torchvision_models import torchvision_names, variant_names

    return sorted([*torchvision_names(), *variant_names(), *OURS])


def check_architecture(name: str) -> None:
    """Raise ``InputError``, naming the nearest, if there is no architecture of this name."""
    if name.startswith(TIMM):
        model = name.removeprefix(TIMM)
        if model not in timm_names():
            raise unknown_name("timm network", model, timm_names(), listed_by=TIMM_LISTED_BY)
    elif name not in OURS and name not in architecture_names():
        raise unknown_name("architecture", name, architecture_names(), listed_by=LISTED_BY)


class _ZerosForRandomWeights(TorchFunctionMode):
    """Fills with zeros what would be drawn at random.

    Memory left as it is would keep ``init.trunc_normal_`` drawing until it happens to be within the bounds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in RANDOM:
            return init.zeros_(args[0] if args else kwargs["tensor"])
        return func(*args, **kwargs)


def build_backbone(name: str, seed: int | None = 0) -> Backbone:
    """Return a network with the initial weights of a seed; torch's global generator is left unchanged.

    A seed of None skips random initialisation, for callers that load every weight afterwards.

    Raises:
        InputError: If there is no such architecture; names the nearest.
    """
    check_architecture(name)
    drawing = _ZerosForRandomWeights() if seed is None else contextlib.nullcontext()
    with torch.random.fork_rng(devices=[]), drawing:
        torch.manual_seed(seed or 0)
        if name in OURS:
            return OURS[name]()
        if name.startswith(TIMM):
            return timm_backbone(name.removeprefix(TIMM))
        from compress_ssl.pipeline.networks.torchvision_models import torchvision_backbone

        return torchvision_backbone(name)


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
    from compress_ssl.pipeline.networks.torchvision_models import torchvision_names

    if name not in torchvision_names():
        raise unknown_name("torchvision network", name, torchvision_names(), listed_by=LISTED_BY)


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
