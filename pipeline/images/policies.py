"""Augmentation policies, which are settings; ``parameters`` and ``mixing`` draw the views from them."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, FiniteFloat, model_validator

from compress_ssl.pipeline.common.errors import unknown_name
from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.storage.attributes import MIXING

Range = tuple[FiniteFloat, FiniteFloat]
Probability = Annotated[float, Field(ge=0, le=1)]


class Policy(Settings):
    """A random view: RandomResizedCrop and flip, then optional colour jitter, grey and blur."""

    scale: Range = (0.08, 1.0)  # area of the crop box as a fraction of the image's
    ratio: Range = (3 / 4, 4 / 3)  # aspect ratio of the crop box, width over height
    flip: Probability = 0.5
    jitter: Probability = 0.0  # probability of colour jitter, whose four strengths follow
    brightness: float = Field(default=0.0, ge=0, le=1)
    contrast: float = Field(default=0.0, ge=0, le=1)
    saturation: float = Field(default=0.0, ge=0, le=1)
    hue: float = Field(default=0.0, ge=0, le=0.5)
    grey: Probability = 0.0
    blur: Probability = 0.0
    blur_sigma: Range = (0.1, 2.0)  # standard deviation of the Gaussian blur, in pixels of the view

    def __str__(self) -> str:
        """Return the name of a published policy, or ``custom``."""
        return next((name for name, known in STORED_POLICIES.items() if known == self), CUSTOM)

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        for name in ("scale", "ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two positive numbers, the smaller first; got {low} and {high}")
        return self


class MixingPolicy(Policy):
    """A random view that may be mixed with the same view of another image of the split."""

    mixup: Probability = 0.0
    cutmix: Probability = 0.0  # never both

    @model_validator(mode="after")
    def _mixes_once(self) -> Self:
        if not 0 < self.mixup + self.cutmix <= 1:
            raise ValueError(
                f"mixup and cutmix must add up to more than 0 and at most 1; got {self.mixup} and {self.cutmix}"
            )
        return self


POLICIES = {
    # The largest centred square, nothing random: for images as small as the view (32 pixels).
    "identity": Policy(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0),
    # RandomResizedCrop and horizontal flip with torchvision's defaults (CompRess, section 4).
    "crop-flip": Policy(),
    # MoCo v2 (Chen et al. 2020), its aug_plus.
    "moco-v2": Policy(
        scale=(0.2, 1.0), jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.2, blur=0.5
    ),
}
STORED_POLICIES: dict[str, Policy] = {
    **POLICIES,
    "crop-flip+mixup": MixingPolicy(mixup=1.0),
    "crop-flip+cutmix": MixingPolicy(cutmix=1.0),
}
"""Policies of views that a teacher embeds: a mixed view has no other target than the embedding of its own pixels."""


class TenCrop(Settings):
    """Ten fixed views: the four corners and the centre of the resized image, and their mirror images.

    Krizhevsky, Sutskever, Hinton 2012, section 4.1; the order is that of torchvision's TenCrop.
    """

    def __str__(self) -> str:
        """Return the name of the policy."""
        return TEN_CROP


TEN_CROP, CUSTOM = "ten-crop", "custom"
CROPS = 10


def stored_policy(policy: Mapping[str, Any]) -> Policy:
    """Return the policy of random views from a store's description of it; pydantic's ValidationError if it is none."""
    settings = {name: value for name, value in policy.items() if name != "name"}
    return (MixingPolicy if MIXING & settings.keys() else Policy)(**settings)


def _by_name(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in STORED_POLICIES:
        raise unknown_name("augmentation policy", value, STORED_POLICIES)
    return STORED_POLICIES[value]


def _policy(value: Any) -> Any:
    value = _by_name(value)
    if isinstance(value, MixingPolicy) or (isinstance(value, dict) and MIXING & value.keys()):
        raise ValueError(
            "mixup and CutMix need a teacher's embedding of the mixed images; give the policy to 'embed' and replay "
            "its views, or take another policy."
        )
    return value


def _views(value: Any) -> Any:
    return TenCrop() if value == TEN_CROP else _by_name(value)


PolicySetting = Annotated[Policy, BeforeValidator(_policy, json_schema_input_type=str)]
"""A policy by name, or as a table of numbers in a recipe."""

StoredPolicySetting = Annotated[MixingPolicy | Policy | TenCrop, BeforeValidator(_views, json_schema_input_type=str)]
"""The same, a policy that mixes images, or the ten crops, which serve evaluation."""
