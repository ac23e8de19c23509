"""A chain of stages as a recipe: each stage's output is the next one's input.

What a recipe says by names follows here from the order: a teacher is the network pre-trained last, students learn from
the chain's store, and what is evaluated is the store and all students.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.evaluate.evaluations import DEFAULT_EVALUATION
from compress_ssl.pipeline.evaluate.settings import EvaluateSettings
from compress_ssl.pipeline.recipe.file import Evaluations, Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Table = Mapping[str, Any]


def chain_recipe(
    folder: Path, data: Path, stages: Sequence[tuple[str, Table]], settings: Table | None = None
) -> Recipe:
    """Turn a chain into the recipe that says the same.

    Parameters
    ----------
    folder, data : Path
        As in a recipe.
    stages : sequence of (str, mapping)
        Stage and settings, in the order of the chain; names, teachers, stores and models may be missing.
    settings : mapping, optional
        What all stages share.

    Raises
    ------
    InputError
        If a stage has nothing before it to take its input from, or comes where no recipe could have it.
    """
    networks: list[dict[str, Any]] = []
    students: list[dict[str, Any]] = []
    embedding: dict[str, Any] | None = None
    evaluations: Evaluations | None = None
    for stage, table in stages:
        if evaluations is not None:
            raise InputError(f"'{stage}' comes after 'evaluate', which ends a chain; put it before.")
        if stage == "pretrain":
            networks.append({"name": table["arch"], **table})
        elif stage == "embed":
            if embedding is not None:
                raise InputError("A chain has one 'embed'; give the second store a chain of its own.")
            embedding = {**_teacher(networks), **table}
            if "teacher" not in embedding:
                raise InputError("'embed' has no teacher; give it --teacher, or put 'pretrain' before it.")
        elif stage == "distill":
            if embedding is None and "store" not in table:
                raise InputError("'distill' has no store; put 'embed' before it, or give it --store.")
            objective = table.get("objective", _default_objective())
            students.append({"name": f"{table['student']}-{objective}", **table})
        else:
            evaluations = _evaluations(_models(networks, embedding, students), table)
            if not evaluations.models:
                raise InputError("'evaluate' has nothing before it to score; give it --model.")
    return Recipe(
        folder=folder,
        data=data,
        settings=dict(settings or {}),
        pretrain=tuple(networks),
        embed=embedding,
        student=tuple(students),
        evaluate=evaluations or Evaluations(),
    )


def _evaluations(models: tuple[str, ...], table: Table) -> Evaluations:
    """Nearest neighbour as it is told, and others at their defaults with what all evaluations share."""
    given = {"models": models, **table}
    also = given.pop("also", ())
    own = {key: given.pop(key) for key in list(given) if key not in {"models", *EvaluateSettings.model_fields}}
    return Evaluations.model_validate({**given, DEFAULT_EVALUATION: own, **{name: {} for name in also}})


def _teacher(networks: Sequence[Table]) -> dict[str, Any]:
    return {"teacher": networks[-1]["name"]} if networks else {}


def _default_objective() -> str:
    from compress_ssl.pipeline.distill.settings import DistillSettings

    return str(DistillSettings.model_fields["objective"].default)


def _models(networks: Sequence[Table], embedding: Table | None, students: Sequence[Table]) -> tuple[str, ...]:
    """The stores and all students; the pre-trained networks where there is neither."""
    stores = ["embed"] if embedding is not None else []
    stores += dict.fromkeys(str(student["store"]) for student in students if "store" in student)
    return (*stores, *(student["name"] for student in students)) or tuple(network["name"] for network in networks)
