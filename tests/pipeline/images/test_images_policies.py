"""Policies as settings: by name, or by numbers within their ranges."""

import pytest
from pydantic import TypeAdapter, ValidationError

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.policies import POLICIES, Policy, PolicySetting


def test_a_policy_is_known_by_name_or_by_numbers() -> None:
    setting: TypeAdapter[Policy] = TypeAdapter(PolicySetting)
    assert setting.validate_python("moco-v2") == POLICIES["moco-v2"]
    assert str(setting.validate_python("moco-v2")) == "moco-v2"
    assert str(setting.validate_python({"flip": 0.25})) == "custom"
    assert str(setting.validate_python({"flip": 0.5})) == "crop-flip"


def test_an_unknown_policy_is_answered_with_the_nearest() -> None:
    with pytest.raises((InputError, ValidationError), match=r"'mocov2'.*Did you mean 'moco-v2'"):
        TypeAdapter(PolicySetting).validate_python("mocov2")


def test_numbers_outside_their_range_are_refused() -> None:
    wrong: list[tuple[str, object]] = [
        ("scale", (0.5, 0.2)), ("scale", (0, 1)), ("ratio", (-1, 1)), ("blur_sigma", (0.1, float("inf"))),
        ("ratio", (float("nan"), 1)), ("flip", 1.5), ("grey", -0.1), ("hue", 0.6), ("brightness", -1), ("flipp", 0.5),
    ]  # fmt: skip
    for name, value in wrong:
        with pytest.raises(ValidationError, match=name):
            Policy.model_validate({name: value})
