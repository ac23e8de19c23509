"""Turn a chain of stages into a recipe: the output of each stage is the input of the next.

The order replaces a recipe's names: the teacher is the last pre-trained network, students learn from the chain's store,
and the store and all students are evaluated.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.evaluate.evaluations import DEFAULT_EVALUATION
from compress_ssl.pipeline.evaluate.settings import EvaluateSettings
from compress_ssl.pipeline.recipe.file import Evaluations, Recipe

Table = Mapping[str, Any]


def chain_recipe(
    folder: Path, data: Path, stages: Sequence[tuple[str, Table]], settings: Table | None = None
) -> Recipe:
    """Return the recipe that is equivalent to a chain.

    Args:
        folder, data: As in a recipe.
        stages (sequence of (str, mapping)): Stage and settings, in the order of the chain; names, teachers, stores and
            models may be missing.
        settings: Shared by all stages.

    Raises:
        InputError: If no earlier stage provides a stage's input, or a stage is at a place where a recipe has none.
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
            embedding = {**({"teacher": networks[-1]["name"]} if networks else {}), **table}
            if "teacher" not in embedding:
                raise InputError("'embed' has no teacher; give it --teacher, or put 'pretrain' before it.")
        elif stage == "distill":
            if embedding is None and "store" not in table:
                raise InputError("'distill' has no store; put 'embed' before it, or give it --store.")
            objective = table.get("objective", DistillSettings.model_fields["objective"].default)
            students.append({"name": f"{table['student']}-{objective}", **table})
        else:
            evaluations = _evaluations(networks, embedding, students, table)
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


def _evaluations(
    networks: Sequence[Table], embedding: Table | None, students: Sequence[Table], table: Table
) -> Evaluations:
    """Return nearest neighbour with its options, and the others with the shared options and their own defaults.

    Of the stores and all students, or of the pre-trained networks if there is neither.
    """
    stores = ["embed"] if embedding is not None else []
    stores += dict.fromkeys(str(student["store"]) for student in students if "store" in student)
    models = (*stores, *(student["name"] for student in students)) or tuple(network["name"] for network in networks)
    given = {"models": models, **table}
    also = given.pop("also", ())
    own = {key: given.pop(key) for key in list(given) if key not in {"models", *EvaluateSettings.model_fields}}
    return Evaluations.model_validate({**given, DEFAULT_EVALUATION: own, **{name: {} for name in also}})
