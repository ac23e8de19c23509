"""A chain is the recipe that says the same; what its stages leave out follows from their order."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.recipe.chain import chain_recipe
from compress_ssl.pipeline.recipe.file import Recipe
from compress_ssl.pipeline.recipe.steps import plan_steps

Stages = list[tuple[str, dict[str, Any]]]


def recipe_of(stages: Stages, settings: dict[str, Any] | None = None) -> Recipe:
    return chain_recipe(Path("out"), Path("images"), stages, settings)


def names(stages: Stages) -> list[str]:
    return [step.name for step in plan_steps(recipe_of(stages))]


def test_chain_has_the_steps_of_the_recipe_that_says_the_same() -> None:
    written = tomllib.loads(
        """
        folder = "out"
        data = "images"
        [settings]
        threads = 1
        [[pretrain]]
        name = "big"
        arch = "conv4-64"
        policy = "moco-v2"
        [embed]
        teacher = "big"
        split = ["train", "val:0"]
        [[student]]
        name = "conv4-16-compress-2q"
        student = "conv4-16"
        [[student]]
        name = "small"
        student = "conv4-16"
        objective = "compress-1q"
        milestones = [3, 5]
        [evaluate]
        models = ["embed", "conv4-16-compress-2q", "small"]
        [evaluate.knn]
        labels_per_class = [1, 10]
        [evaluate.linear]
        [evaluate.cluster]
        """
    )
    chain = recipe_of(
        [
            ("pretrain", {"name": "big", "arch": "conv4-64", "policy": "moco-v2"}),
            ("embed", {"split": ("train", "val:0")}),
            ("distill", {"student": "conv4-16"}),
            ("distill", {"name": "small", "student": "conv4-16", "objective": "compress-1q", "milestones": (3, 5)}),
            ("evaluate", {"labels_per_class": (1, 10), "also": ("linear", "cluster")}),
        ],
        {"threads": 1},
    )
    assert plan_steps(chain) == plan_steps(Recipe(**written))


def test_teacher_is_the_network_pretrained_last_unless_another_is_named() -> None:
    networks: Stages = [("pretrain", {"arch": "conv4-64"}), ("pretrain", {"arch": "conv4-32"})]
    assert recipe_of([*networks, ("embed", {})]).embed == {"teacher": "conv4-32"}
    assert recipe_of([*networks, ("embed", {"teacher": "conv4-64"})]).embed == {"teacher": "conv4-64"}
    assert recipe_of([("embed", {"teacher": "random/conv4-8"})]).embed == {"teacher": "random/conv4-8"}


def test_store_from_elsewhere_can_be_learned_from_and_is_evaluated() -> None:
    student = {"student": "conv4-16", "store": Path("their/teacher.zarr")}
    assert names([("distill", student), ("evaluate", {})]) == [
        "conv4-16-compress-2q",
        "knn their/teacher.zarr",
        "knn conv4-16-compress-2q",
    ]


def test_networks_alone_are_evaluated_where_there_is_no_student() -> None:
    assert names([("pretrain", {"arch": "conv4-16"}), ("evaluate", {})]) == ["conv4-16", "knn conv4-16"]


def test_models_named_are_the_only_ones_evaluated() -> None:
    chain: Stages = [("embed", {"teacher": "random/conv4-8"}), ("evaluate", {"models": ("random/conv4-8",)})]
    assert names(chain) == ["embed", "knn random/conv4-8"]


EMBED: tuple[str, dict[str, Any]] = ("embed", {"teacher": "random/conv4-8"})
STUDENT: tuple[str, dict[str, Any]] = ("distill", {"student": "conv4-16"})


def test_stage_without_an_input_or_in_the_wrong_place_is_named() -> None:
    for stages, sentence in [
        ([("embed", {})], "'embed' has no teacher; give it --teacher, or put 'pretrain' before it."),
        ([STUDENT], "'distill' has no store; put 'embed' before it, or give it --store."),
        ([STUDENT, EMBED], "'distill' has no store; put 'embed' before it, or give it --store."),
        ([EMBED, EMBED], "A chain has one 'embed'; give the second store a chain of its own."),
        ([("evaluate", {})], "'evaluate' has nothing before it to score; give it --model."),
        ([EMBED, ("evaluate", {}), STUDENT], "'distill' comes after 'evaluate', which ends a chain; put it before."),
        ([EMBED, STUDENT, STUDENT], "There are two steps named 'conv4-16-compress-2q'; give each its own name."),
        ([EMBED, ("evaluate", {"models": ("embd",)})], "There is no model 'embd'. Did you mean 'embed'?"),
    ]:
        with pytest.raises(InputError) as error:
            names(stages)
        assert sentence in str(error.value)
