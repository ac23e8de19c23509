"""``models`` prints a line a network, whole names, and the same as JSON."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from click.testing import Result

from compress_ssl.pipeline.networks import catalogue
from compress_ssl.pipeline.networks.catalogue import STUDENTS
from compress_ssl.pipeline.networks.teachers import TEACHERS

Call = Callable[..., Result]


@pytest.fixture(autouse=True, scope="module")
def described_once() -> Iterator[None]:
    """The calls of this module share the descriptions of teachers and students."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("describe_network", "describe_student"):
            patch.setattr(catalogue, name, cache(getattr(catalogue, name)))
        yield


def printed(call: Call, *words: str) -> str:
    result = call("models", *words)
    assert result.exit_code == 0, result.output
    return result.stdout


def as_json(call: Call, *words: str) -> dict[str, list[dict[str, Any]]]:
    answer: dict[str, list[dict[str, Any]]] = json.loads(printed(call, *words, "--json"))
    return answer


def test_everything_is_listed_in_order_with_whole_names(call: Call) -> None:
    lines = printed(call).splitlines()
    assert [line.split()[0] for line in lines] == ["teachers", *TEACHERS, "students", *STUDENTS]
    (teacher,) = [line for line in lines if line.startswith("simclr-resnet50-w4 ")]
    assert teacher.split()[1:5] == ["8192", "375.4", "127.96", "224"]
    assert "[0, 1], bilinear to 256" in teacher
    assert "Chen et al." in teacher
    (student,) = [line for line in lines if line.startswith("mobilenet_v2 ")]
    assert student.split()[1:5] == ["1280", "2.2", "0.60", "224"]


def test_one_kind_is_listed_as_json(call: Call) -> None:
    for option, names in [("teachers", TEACHERS), ("students", STUDENTS)]:
        answer = as_json(call, f"--{option}")
        assert list(answer) == [option]
        assert [network["name"] for network in answer[option]] == list(names)


def test_any_network_is_described(call: Call) -> None:
    (network,) = as_json(call, "timm/vit_small_patch14_dinov2.lvd142m")["networks"]
    assert network["feature_dim"] == 384
    assert network["parameters"] == 22_056_192
    assert network["preprocessing"]["size"] == 518
    assert network["preprocessing"]["interpolation"] == "bicubic"
    assert "vit_small_patch14_dinov2.lvd142m  " in printed(call, "timm/vit_small_patch14_dinov2.lvd142m")


def test_pattern_stands_for_the_names_that_fit(call: Call) -> None:
    answer = as_json(call, "conv4-*", "alexnet", "--students")
    assert [each["name"] for each in answer["networks"]] == ["conv4-128", "conv4-16", "conv4-32", "conv4-64", "alexnet"]
    assert list(answer) == ["students", "networks"]


UNKNOWN = [
    ("mobilenet-v2", "There is no network 'mobilenet-v2'. Did you mean 'mobilenet_v2'?"),
    (
        "timm/vit_smal_patch16_224",
        "There is no timm network 'vit_smal_patch16_224'. Did you mean 'vit_small_patch16_224'",
    ),
    ("dinov2*", "No name of a network matches 'dinov2*'"),
    ("moco-v2-resnet5O", "Did you mean 'moco-v2-resnet50'?"),
    ("torchvision/resnet51", "There is no torchvision network 'resnet51'. Did you mean 'resnet50'?"),
]


def test_unknown_name_is_one_sentence(call: Call) -> None:
    for name, sentence in UNKNOWN:
        result = call("models", name)
        assert result.exit_code == 2
        assert sentence in result.stderr
        assert result.stdout == ""


def test_references_of_stage_one_are_described_too(call: Call) -> None:
    """Torchvision's newer weights of ResNet-50 were evaluated on images resized to 232 pixels."""
    trained, untrained = as_json(call, "torchvision/resnet50", "random/resnet50")["networks"]
    assert (trained["name"], untrained["name"]) == ("torchvision/resnet50", "random/resnet50")
    assert (trained["architecture"], untrained["architecture"]) == ("resnet50", "resnet50")
    assert (trained["preprocessing"]["resize"], untrained["preprocessing"]["resize"]) == (232, 256)
