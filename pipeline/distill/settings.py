"""What ``distill`` can be told. The defaults are the paper's (Koohpayegani et al. 2020, section 4 and published code)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.images.policies import POLICIES, PolicySetting
from pipeline.settings import ContentCheckSetting, StoreLocation, argument
from pipeline.training.settings import TrainingSettings


class DistillSettings(TrainingSettings):
    """Settings of stage two."""

    store: Annotated[StoreLocation, argument("Embedding store of the teacher: a folder or a URL.")]
    data: Annotated[Path, argument("Data set that the store was made from.")]
    run: Annotated[Path, argument("Folder to write the student to.")]
    student: Annotated[
        str,
        Field(
            description="Architecture: resnet18, mobilenet_v2, alexnet, resnet18-32px, timm/vit_tiny_patch16_224, ...; "
            "'compress-ssl models --students' lists them."
        ),
    ]
    objective: Annotated[
        Literal["compress-1q", "compress-2q"],
        Field(description="CompRess with one memory bank, the teacher's, or with two."),
    ] = "compress-2q"
    head: Annotated[
        Literal["none", "linear", "mlp"] | None,
        Field(
            description="Between the student's feature and the objective, thrown away at export: nothing, a linear layer to "
            "the teacher's dimension, or SimReg's MLP; linear for compress-1q and none for compress-2q unless given."
        ),
    ] = None
    split: Annotated[str, Field(description="Split of the store to train on.")] = "train"
    check_content: ContentCheckSetting = "sample"
    student_view: Annotated[
        Literal["replay", "fresh"],
        Field(
            description="replay: the student sees the views that the teacher saw. fresh: it sees its own random views, "
            "and learns the teacher's embeddings of view 0 (the published code's cached mode)."
        ),
    ] = "replay"
    views: Annotated[
        int | None,
        Field(ge=1, description="Replay only the first so many random views; all of them unless given."),
    ] = None
    policy: Annotated[
        PolicySetting | None,
        Field(description=f"Augmentation of fresh views: {', '.join(POLICIES)}; crop-flip unless given."),
    ] = None
    student_size: Annotated[
        int | None,
        Field(
            ge=8,
            description="Side of what the student sees, in pixels: the same crop, resized; the view's own unless given.",
        ),
    ] = None
    epochs: Annotated[int, Field(ge=1, description="Passes over the images; epoch e sees view 1 + e mod V.")] = 130
    accumulation: Annotated[
        int,
        Field(ge=1, description="Compute a step in so many parts, one after the other, for less memory."),
    ] = 1
    learning_rate: Annotated[float, Field(gt=0, description="Learning rate at the start.")] = 0.01
    schedule: Annotated[
        Literal["step", "cosine"], Field(description="Steps at the milestones, or one half cosine to zero.")
    ] = "step"
    temperature: Annotated[float, Field(gt=0, description="Divides the similarities.")] = 0.04
    bank_size: Annotated[int, Field(ge=1, description="Anchor points in each memory bank.")] = 128_000
    bank_precision: Annotated[
        Literal["float32", "bfloat16", "float16"],
        Field(description="Of the memory banks and the products with them; half takes half the memory."),
    ] = "float32"
    prefill: Annotated[
        bool,
        Field(description="Fill the memory banks with embeddings of images before the first step, not with noise."),
    ] = False
    key_momentum: Annotated[
        float, Field(ge=0, le=1, description="Of the key encoder's moving average; less for few steps.")
    ] = 0.999
    export: Annotated[
        Literal["query", "key"],
        Field(description="Encoder that becomes the student: the trained one, or its moving average (compress-2q)."),
    ] = "query"
    teacher_memory: Annotated[
        Literal["auto", "device", "pinned", "mapped"],
        Field(
            description="Where the teacher's view lies while it is in use: memory of the training device, pinned host "
            "memory, or a memory map in the scratch folder; auto is the first that has room."
        ),
    ] = "auto"
    scratch: Annotated[
        Path | None,
        Field(description="Folder on a fast local disk for memory maps; the system's temporary folder unless given."),
    ] = None

    @model_validator(mode="after")
    def _options_go_together(self) -> Self:
        if self.batch_size % self.accumulation:
            raise ValueError(f"--accumulation {self.accumulation} must divide --batch-size {self.batch_size}.")
        if self.head == "mlp" and self.batch_size == self.accumulation:
            raise ValueError(
                "--head mlp has batch norm, which needs two images at once; raise --batch-size or lower --accumulation."
            )
        if self.export == "key" and self.objective != "compress-2q":
            raise ValueError(f"--export key needs a key encoder, and {self.objective} has none; use compress-2q.")
        if self.student_view == "replay" and self.policy is not None:
            raise ValueError(
                "--policy is of fresh views, and replayed ones have the store's; add --student-view fresh."
            )
        if self.student_view == "fresh" and self.views is not None:
            raise ValueError("--views is of replayed views, and fresh ones are drawn anew; leave it out.")
        return self


SHARED_IN_ONE_PASS = (
    "store",
    "data",
    "split",
    "student_view",
    "views",
    "policy",
    "epochs",
    "batch_size",
    "seed",
    "renderer",
    "device",
    "threads",
    "teacher_memory",
    "scratch",
    "check_content",
)
"""What students must have in common to be trained on one stream of images."""
