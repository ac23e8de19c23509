"""What ``distill`` can be told. The defaults are the paper's (Koohpayegani et al. 2020, section 4 and published code)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from compress_ssl.pipeline.common.settings import (
    ContentCheckSetting,
    StoreLocation,
    path_option,
    result_option,
    runtime_option,
)
from compress_ssl.pipeline.distill.objective_options import DEFAULT_OBJECTIVE, OPTIONS, OWN_DEFAULTS, OWN_HEADS
from compress_ssl.pipeline.images.policies import POLICIES, PolicySetting
from compress_ssl.pipeline.training.settings import TrainingSettings

if TYPE_CHECKING:
    from compress_ssl.storage import Place


class DistillSettings(TrainingSettings):
    """Settings of stage two."""

    store: Annotated[StoreLocation, path_option("Embedding store of the teacher: a folder or a URL.", argument=True)]
    data: Annotated[Path, path_option("Data set that the store was made from.", argument=True)]
    run: Annotated[Path, path_option("Folder to write the student to.", argument=True)]
    student: Annotated[
        str,
        result_option(
            "Architecture: resnet18, mobilenet_v2, alexnet, resnet18-32px, timm/vit_tiny_patch16_224, ...; "
            "'compress-ssl models --students' lists them."
        ),
    ]
    objective: Annotated[
        Literal["compress-1q", "compress-2q", "reg", "reg-bn", "simreg", "seed", "crd", "cc"],
        result_option(
            "What is learned of the teacher: its similarities to the images of one memory bank or two "
            "(CompRess) or of SEED's queue, its embeddings by regression (plain, with batch norm, SimReg's) or contrast "
            "(CRD), or clusters of them (CC)."
        ),
    ] = DEFAULT_OBJECTIVE
    head: Annotated[
        Literal["none", "linear", "mlp", "mlp-2"] | None,
        result_option(
            "Between the student's feature and the objective, thrown away at export: nothing, a linear layer to "
            "the teacher's dimension, SimReg's MLP of four layers, or SEED's of two; unless given none for compress-2q, mlp for "
            "simreg, mlp-2 for seed, linear for the others."
        ),
    ] = None
    also_store: Annotated[
        tuple[StoreLocation, ...],
        path_option(
            "Store of another teacher of the same images in the same views, to learn from at once: the loss is the "
            "mean of the objective's over all teachers. Repeatable."
        ),
    ] = ()
    store_weights: Annotated[
        tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...],
        result_option(
            "Weight of a store in that mean, one for STORE and one for each further one; equal unless given. "
            "Repeatable."
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
    views: Annotated[
        int | None,
        result_option("Replay only the first so many random views; all of them unless given.", ge=1),
    ] = None
    policy: Annotated[
        PolicySetting | None,
        result_option(f"Augmentation of fresh views: {', '.join(POLICIES)}; crop-flip unless given."),
    ] = None
    student_size: Annotated[
        int | None,
        result_option(
            "Side of what the student sees, in pixels: the same crop, resized; the view's own unless given.", ge=8
        ),
    ] = None
    epochs: Annotated[int, result_option("Passes over the images; epoch e sees view 1 + e mod V.", ge=1)] = 130
    accumulation: Annotated[
        int,
        result_option("Compute a step in so many parts, one after the other, for less memory.", ge=1),
    ] = 1
    learning_rate: Annotated[float, result_option("Learning rate at the start.", gt=0)] = 0.01
    schedule: Annotated[
        Literal["step", "cosine"], result_option("Steps at the milestones, or one half cosine to zero.")
    ] = "step"
    temperature: Annotated[
        float, result_option("Divides the similarities; for seed 0.2 unless given, for crd 0.07.", gt=0)
    ] = 0.04
    teacher_temperature: Annotated[
        float | None,
        result_option("Divides the teacher's similarities; the same unless given, for seed 0.01.", gt=0),
    ] = None
    bank_size: Annotated[
        int,
        result_option(
            "Anchor points in each memory bank; at most as many as there are images; for seed 65536 unless given.", ge=1
        ),
    ] = 128_000
    bank_precision: Annotated[
        Literal["float32", "bfloat16", "float16"],
        result_option("Of the memory banks and the products with them; half takes half the memory."),
    ] = "float32"
    prefill: Annotated[
        bool,
        result_option("Fill the memory banks with embeddings of images before the first step, not with noise."),
    ] = False
    anchors: Annotated[
        Literal["queue", "random", "k-means"],
        result_option(
            "What is in the memory bank of compress-1q: the last images seen, or the same all the time: random "
            "images of the store, or centres of its k-means (both of view 0)."
        ),
    ] = "queue"
    mask_own: Annotated[bool, result_option("Compare no image with the rows of a memory bank that are of itself.")] = (
        False
    )
    centre: Annotated[
        bool,
        result_option("Subtract the mean of the teacher's embeddings (of view 0) from them before they are compared."),
    ] = False
    negatives: Annotated[int, result_option("Other images that crd contrasts an image with.", ge=1)] = 16_384
    memory_momentum: Annotated[
        float, result_option("By which crd moves the embeddings that it keeps of every image.", ge=0, lt=1)
    ] = 0.5
    negative_queue: Annotated[
        int | None,
        result_option(
            "crd keeps the embeddings of the last so many images alone, and draws the negatives from them; of every "
            "image unless given.",
            ge=1,
        ),
    ] = None
    clusters: Annotated[
        int | None,
        result_option(
            "Of the teacher's embeddings, for cc; unless given 16,000, or one for 39 images if that is less.", ge=2
        ),
    ] = None
    key_momentum: Annotated[
        float, result_option("Of the key encoder's moving average; less for few steps.", ge=0, le=1)
    ] = 0.999
    export: Annotated[
        Literal["query", "key"],
        result_option("Encoder that becomes the student: the trained one, or its moving average (compress-2q)."),
    ] = "query"
    teacher_memory: Annotated[
        Literal["auto", "device", "pinned", "mapped"],
        runtime_option(
            "Where the teacher's view lies while it is in use: memory of the training device, pinned host "
            "memory, or a memory map in the scratch folder; auto is the first that has room."
        ),
    ] = "auto"
    scratch: Annotated[
        Path | None,
        runtime_option("Folder on a fast local disk for memory maps; the system's temporary folder unless given."),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _with_own_defaults(cls, given: Any) -> Any:
        return {**OWN_DEFAULTS.get(given.get("objective", ""), {}), **given} if isinstance(given, dict) else given

    @property
    def stores(self) -> tuple[Place, ...]:
        """Of all teachers."""
        return self.store, *self.also_store

    @property
    def weights(self) -> tuple[float, ...]:
        """Of each store in the mean of the losses; they add up to one."""
        given = self.store_weights or (1.0,) * len(self.stores)
        return tuple(weight / sum(given) for weight in given)

    @property
    def head_or_own(self) -> str:
        """The head, the objective's own unless one is named."""
        return self.head or OWN_HEADS[self.objective]

    @property
    def needs_fit(self) -> bool:
        """Whether the objective needs the teacher's view 0 of all images before it begins."""
        return self.centre or self.objective == "cc" or self.anchors != "queue"

    @model_validator(mode="after")
    def _options_are_of_the_objective(self) -> Self:
        for option in sorted(self.model_fields_set & set().union(*OPTIONS.values()) - OPTIONS[self.objective]):
            if getattr(self, option) is not None:
                users = ", ".join(name for name, options in OPTIONS.items() if option in options)
                raise ValueError(
                    f"--{option.replace('_', '-')} does nothing for {self.objective}; leave it out, or use {users}."
                )
        return self

    @model_validator(mode="after")
    def _every_store_has_a_weight(self) -> Self:
        if self.store_weights and len(self.store_weights) != len(self.stores):
            raise ValueError(
                f"--store-weights names {len(self.store_weights)}, and there are {len(self.stores)} stores; give one for "
                "STORE and one for each --also-store."
            )
        return self

    @model_validator(mode="after")
    def _options_go_together(self) -> Self:
        if self.batch_size % self.accumulation:
            raise ValueError(f"--accumulation {self.accumulation} must divide --batch-size {self.batch_size}.")
        if self.batch_size == self.accumulation and (self.head_or_own == "mlp" or self.objective == "reg-bn"):
            named = "--objective reg-bn" if self.objective == "reg-bn" else "--head mlp"
            raise ValueError(
                f"{named} has batch norm, which needs two images at once; raise --batch-size or lower --accumulation."
            )
        if self.export == "key" and self.objective != "compress-2q":
            raise ValueError(f"--export key needs a key encoder, and {self.objective} has none; use compress-2q.")
        if self.prefill and self.anchors != "queue":
            raise ValueError("--prefill is of a queue, and other --anchors are all there from the start; leave it out.")
        if self.mask_own and (self.anchors == "k-means" or self.bank_size == 1):
            raise ValueError(
                "--mask-own needs a bank of more than one image, and k-means centres are of none; leave it out."
            )
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
"""What students must have in common to be trained on one stream of images. Further teachers may differ."""
