"""Settings of ``distill``. The defaults are the paper's (Koohpayegani et al. 2020, section 4 and published code).

The options of the objectives are declared in their signatures (``objectives/``); the fields for them derive from those.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_origin

from pydantic import Field, create_model, model_validator

from compress_ssl.pipeline.common.settings import (
    ContentCheckSetting,
    StoreLocation,
    own_options,
    path_option,
    result_option,
    runtime_option,
)
from compress_ssl.pipeline.distill.objectives import DEFAULT_OBJECTIVE, OBJECTIVES, read_signature
from compress_ssl.pipeline.distill.objectives.options import HeadName
from compress_ssl.pipeline.images.policies import POLICIES, PolicySetting
from compress_ssl.pipeline.training.settings import LearningRate, Schedule, TrainingSettings

if TYPE_CHECKING:
    from compress_ssl.storage import Place

_SIGNATURES = {objective: read_signature(objective) for objective in OBJECTIVES}

DEFAULTS = {
    objective: {name: default for name, (_, default) in signature.items() if name != "head"}
    for objective, signature in _SIGNATURES.items()
}  # by objective, its options and their defaults

DEFAULT_HEADS = {objective: signature["head"][1] for objective, signature in _SIGNATURES.items() if "head" in signature}

OPTIONS = {
    objective: {
        *signature,
        *({"prefill"} if "bank_size" in signature else ()),
        *({"teacher_head"} if objective == "retro" else ()),
    }
    for objective, signature in _SIGNATURES.items()
}  # by objective, the settings that apply to it; those of other objectives are refused


def options_for(shared: Mapping[str, Any], objective: str | None) -> dict[str, Any]:
    """Return the settings shared by several students that apply to an objective (the default one if None)."""
    return own_options(shared, OPTIONS, objective or DEFAULT_OBJECTIVE)


def _objective_fields() -> dict[str, Any]:
    """Return annotation and default of the field of each option: those of the first objective that has it."""
    fields: dict[str, Any] = {}
    for signature in _SIGNATURES.values():
        for name, (annotation, default) in signature.items():
            if name != "head" and name not in fields:
                assert get_origin(annotation) is Annotated, f"{name} needs a result_option in its annotation"
                users = {objective: own[name] for objective, own in DEFAULTS.items() if name in own}
                text = f"{annotation.__metadata__[0].description} ({_by_objective(users, unless=default)})."
                fields[name] = Annotated[annotation, Field(description=text)], default
    return fields


def _by_objective(defaults: Mapping[str, Any], unless: Any = None) -> str:
    """Return the objectives as a list, each with its default where that is another than ``unless``."""
    return ", ".join(
        objective if default == unless else f"{objective}: {default}" for objective, default in defaults.items()
    )


if not TYPE_CHECKING:
    _ObjectiveSettings = create_model(
        "ObjectiveSettings",
        __base__=TrainingSettings,
        objective=(
            Annotated[
                Literal[tuple(OBJECTIVES)],
                result_option(
                    "What the student learns from the teacher: its similarities to the images of one memory bank or "
                    "two (CompRess) or of a queue (SEED's, LightlyTrain's), its embeddings by regression (plain, with "
                    "batch norm, SimReg's, UNIC's, with the KoLeo regulariser, or behind the teacher's projection "
                    "head: Retro) or contrast (CRD, BINGO with bags of neighbours), or clusters of them (CC)."
                ),
            ],
            DEFAULT_OBJECTIVE,
        ),
        **_objective_fields(),
    )
else:

    class _ObjectiveSettings(TrainingSettings):
        objective: str = DEFAULT_OBJECTIVE

        def __getattr__(self, name: str) -> Any:
            """Return an option of the objectives."""


class DistillSettings(_ObjectiveSettings):
    """Settings of ``distill``, with the options of all objectives."""

    store: Annotated[StoreLocation, path_option("Embedding store of the teacher: a folder or a URL.", argument=True)]
    data: Annotated[Path, path_option("Dataset that the store was made from.", argument=True)]
    run: Annotated[Path, path_option("Folder to write the student to.", argument=True)]
    student: Annotated[
        str,
        result_option(
            "Architecture: resnet18, mobilenet_v2, alexnet, resnet18-32px, timm/vit_tiny_patch16_224, or any other of "
            "torchvision or timm; 'compress-ssl models --students' lists recommended ones."
        ),
    ]
    head: Annotated[
        HeadName | None,
        result_option(
            "Layers between the student's features and the objective, dropped at export: none, one linear layer to the "
            "teacher's dimension, SimReg's MLP of four layers (mlp), or SEED's or UNIC's of two (mlp-2, mlp-gelu). "
            f"(default: {_by_objective(DEFAULT_HEADS)})"
        ),
    ] = None
    also_store: Annotated[
        tuple[StoreLocation, ...],
        path_option(
            "Store of another teacher of the same images in the same views. The loss is the weighted mean of the "
            "objective's losses over all teachers (see --store-weights). Repeatable."
        ),
    ] = ()
    store_weights: Annotated[
        tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...],
        result_option(
            "Weight of a teacher's loss: one for STORE, and one for each --also-store (default: equal weights). "
            "Repeatable."
        ),
    ] = ()
    teacher_head: Annotated[
        tuple[str, ...],
        path_option(
            "Checkpoint with the projection head that the teacher was trained with, FILE or FILE#PREFIX: one for STORE "
            "and one for each --also-store (retro). Repeatable."
        ),
    ] = ()
    split: Annotated[str, result_option("Split of the store to train on.")] = "train"
    check_content: ContentCheckSetting = "sample"
    student_view: Annotated[
        Literal["replay", "fresh"],
        result_option(
            "replay: the student sees the views that the teacher saw. fresh: it sees its own random views, "
            "and learns the teacher's embeddings of view 0 (the published code's cached mode)."
        ),
    ] = "replay"
    views: Annotated[int | None, result_option("Replay only the first N random views (default: all).", ge=1)] = None
    policy: Annotated[
        PolicySetting | None,
        result_option(f"Augmentation policy of fresh views: {', '.join(POLICIES)} (default: crop-flip)."),
    ] = None
    student_size: Annotated[
        int | None,
        result_option(
            "Side of the student's input, in pixels: the same crop, resized (default: the size of the views).", ge=8
        ),
    ] = None
    epochs: Annotated[int, result_option("Passes over the images; epoch e replays view 1 + (e mod V).", ge=1)] = 130
    accumulation: Annotated[int, result_option("Gradient accumulation: micro-batches per step.", ge=1)] = 1
    patch_loss: Annotated[
        Literal["kl", "smooth-l1"] | None,
        result_option(
            "Also learn the teacher's patches (embed --patches) from the student's feature map: their similarities "
            "within an image (kl), or their values (smooth-l1). (default: neither)"
        ),
    ] = None
    patch_weight: Annotated[
        float, result_option("Weight of the loss on patches, which is added to the objective's.", gt=0)
    ] = 1.0
    learning_rate: LearningRate = 0.01
    schedule: Schedule = "step"
    prefill: Annotated[
        bool,
        result_option(
            "Fill the memory banks with embeddings of images before the first step instead of noise "
            f"({', '.join(objective for objective, options in OPTIONS.items() if 'prefill' in options)})."
        ),
    ] = False
    export: Annotated[
        Literal["query", "key"], result_option("Encoder to export: the trained one, or its EMA (compress-2q).")
    ] = "query"
    teacher_memory: Annotated[
        Literal["auto", "device", "host", "mapped"],
        runtime_option(
            "Memory that holds the teacher's view in use: the training device's, the host's, or a memory map in the "
            "scratch folder; auto is the first that has room."
        ),
    ] = "auto"
    scratch: Annotated[
        Path | None,
        runtime_option("Folder on a fast local disk for memory maps (default: the system's temporary folder)."),
    ] = None

    if TYPE_CHECKING:

        def __init__(self, **given: Any) -> None: ...

    @model_validator(mode="before")
    @classmethod
    def _with_defaults_of_the_objective(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        own = DEFAULTS.get(given.get("objective", DEFAULT_OBJECTIVE), {})
        return {name: value for name, value in own.items() if value != cls.model_fields[name].default} | given

    @property
    def stores(self) -> tuple[Place, ...]:
        """Stores of all teachers."""
        return self.store, *self.also_store

    @property
    def weights(self) -> tuple[float, ...]:
        """Weights of the stores in the mean of the losses; they add up to one."""
        given = self.store_weights or (1.0,) * len(self.stores)
        return tuple(weight / sum(given) for weight in given)

    @property
    def head_or_default(self) -> str:
        """The head, the objective's own unless one is given."""
        return self.head or DEFAULT_HEADS.get(self.objective, "none")

    @property
    def objective_options(self) -> dict[str, Any]:
        """Options to build the objective with."""
        options = {name: getattr(self, name) for name in DEFAULTS[self.objective]}
        return {**options, "head": self.head_or_default} if self.objective in DEFAULT_HEADS else options

    @model_validator(mode="after")
    def _options_go_together(self) -> Self:
        for option in sorted(self.model_fields_set & set().union(*OPTIONS.values()) - OPTIONS[self.objective]):
            if getattr(self, option) is not None:
                users = ", ".join(name for name, options in OPTIONS.items() if option in options)
                raise ValueError(
                    f"--{option.replace('_', '-')} does nothing for {self.objective}; leave it out, or use {users}."
                )
        if self.store_weights and len(self.store_weights) != len(self.stores):
            raise ValueError(
                f"There are {len(self.store_weights)} --store-weights and {len(self.stores)} stores; give one for "
                "STORE and one for each --also-store."
            )
        if "teacher_dropping" in self.model_fields_set and not self.also_store:
            raise ValueError("--teacher-dropping chooses among several teachers; add --also-store, or leave it out.")
        if self.objective == "retro" and len(self.teacher_head) != len(self.stores):
            raise ValueError(
                f"There are {len(self.teacher_head)} --teacher-head and {len(self.stores)} stores; give the checkpoint "
                "with the teacher's projection head for STORE, and one for each --also-store."
            )
        if self.batch_size % self.accumulation:
            raise ValueError(f"--accumulation {self.accumulation} must divide --batch-size {self.batch_size}.")
        if self.keep_last and self.accumulation > 1:
            raise ValueError(
                "--keep-last keeps a smaller last batch, which --accumulation may not divide; leave one of them out."
            )
        if self.batch_size == self.accumulation and (self.head_or_default == "mlp" or self.objective == "reg-bn"):
            named = "--objective reg-bn" if self.objective == "reg-bn" else "--head mlp"
            raise ValueError(
                f"{named} has batch norm, which needs at least two images per micro-batch; raise --batch-size or lower "
                "--accumulation."
            )
        if self.batch_size == self.accumulation and self.objective == "koleo":
            raise ValueError(
                "--objective koleo compares each image with its nearest neighbour, and needs at least two images per "
                "micro-batch; raise --batch-size or lower --accumulation."
            )
        if self.export == "key" and "key_momentum" not in OPTIONS[self.objective]:
            users = ", ".join(name for name, options in OPTIONS.items() if "key_momentum" in options)
            raise ValueError(f"--export key needs a key encoder, and {self.objective} has none; use {users}.")
        if self.prefill and self.anchors != "queue":
            raise ValueError(f"--prefill fills a queue, and --anchors {self.anchors} are fixed; leave it out.")
        if self.mask_own and (self.anchors == "k-means" or self.bank_size == 1):
            raise ValueError(
                "--mask-own needs a bank of several images, and k-means centroids are not images; leave it out."
            )
        if self.student_view == "replay" and self.policy is not None:
            raise ValueError("--policy applies to fresh views, not to replayed ones; add --student-view fresh.")
        if self.patch_loss is None and "patch_weight" in self.model_fields_set:
            raise ValueError("--patch-weight does nothing without --patch-loss; leave it out.")
        if self.patch_loss is not None and self.student_view == "fresh":
            raise ValueError("--patch-loss compares positions of one view, and fresh views are others; replay views.")
        if self.student_view == "fresh" and self.views is not None:
            raise ValueError("--views applies to replayed views, not to fresh ones; leave it out.")
        return self


SHARED_IN_ONE_PASS = (
    "store", "data", "split", "student_view", "views", "policy", "epochs", "batch_size", "keep_last", "seed",
    "renderer", "device", "threads", "teacher_memory", "scratch", "check_content",
)  # what students must have in common to be trained on one stream of images. Further teachers may differ.  # fmt: skip
