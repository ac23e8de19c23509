"""Settings of ``embed``, stage one."""

import re
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from compress_ssl.pipeline.common.settings import (
    ImageSelection,
    OutputSettings,
    PoolSetting,
    Precision,
    Settings,
    StoreLocation,
    ViewGeometry,
    path_option,
    result_option,
    runtime_option,
)
from compress_ssl.pipeline.dask.settings import DaskSettings
from compress_ssl.pipeline.images.policies import (
    CROPS,
    POLICIES,
    STORED_POLICIES,
    TEN_CROP,
    StoredPolicySetting,
    TenCrop,
)
from compress_ssl.storage.attributes import MAX_GRID
from compress_ssl.storage.places.names import first_outside

PATCH_GRID = 7  # as most CNNs' map of 224 pixels


class SplitSource(Settings):
    """One split of the store: name, folder in the dataset, number of random views."""

    name: str
    folder: str
    views: int | None = None  # random views besides view 0; None takes the setting ``views``

    @field_validator("name")
    @classmethod
    def _names_a_folder_of_the_store(cls, name: str) -> str:
        if name == "." or "/" in name:
            raise ValueError(
                f"'{name}' cannot name a split; give the folder above it as DATA, and its own name as the split."
            )
        return name

    @field_validator("folder")
    @classmethod
    def _inside(cls, folder: str) -> str:
        if first_outside([folder]) is not None:
            raise ValueError(f"'{folder}' leads out of the dataset; give the folder above both as DATA.")
        return folder

    def __str__(self) -> str:
        """Format as on the command line."""
        folder = "" if self.folder == self.name else f"={self.folder}"
        return f"{self.name}{folder}" + ("" if self.views is None else f":{self.views}")


def _parse_split(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([A-Za-z0-9_-]+)(?:=([^:]+))?(?::(\d+))?", value)
    if not match:
        raise ValueError(
            f"'{value}' must be NAME, NAME=FOLDER, NAME:VIEWS or NAME=FOLDER:VIEWS, with letters, digits, - and _ in "
            "NAME; for the dataset itself write for instance all=."
        )
    name, folder, views = match.groups()
    return SplitSource(name=name, folder=folder or name, views=None if views is None else int(views))


Split = Annotated[SplitSource, BeforeValidator(_parse_split, json_schema_input_type=str)]


class Part(Settings):
    """Every N-th block: part number I of N."""

    number: int = Field(ge=1)
    of: int = Field(ge=1)

    def __str__(self) -> str:
        """Format as on the command line."""
        return f"{self.number}/{self.of}"

    def has(self, block: int) -> bool:
        """Return True if the block belongs to this part."""
        return block % self.of == self.number - 1


def _parse_part(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+)/(\d+)", value)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"'{value}' must be I/N with I from 1 to N, such as 1/4.")
    return Part(number=int(match[1]), of=int(match[2]))


class EmbedSettings(OutputSettings, ImageSelection, ViewGeometry, DaskSettings):
    """Settings of ``embed``."""

    data: Annotated[Path, path_option("Dataset: a folder with one sub-folder per split, or a pack.", argument=True)]
    store: Annotated[
        StoreLocation,
        path_option("Embedding store to write: a folder, s3://BUCKET/NAME or gs://BUCKET/NAME.", argument=True),
    ]
    teacher: Annotated[
        str,
        result_option(
            "A run's folder, a checkpoint file, NAME:PATH, torchvision/NAME, timm/NAME, random/NAME, or "
            "MODULE:FUNCTION, which returns a torch.nn.Module and its preprocessing."
        ),
    ]
    pool: PoolSetting = "own"
    split: Annotated[
        tuple[Split, ...],
        result_option(
            "NAME[=FOLDER][:VIEWS]: a split of the store, its folder in the dataset (default: NAME; all=. takes the "
            "dataset itself), and its number of random views (default: --views). Repeatable.",
            min_length=1,
        ),
    ] = (SplitSource(name="train", folder="train"), SplitSource(name="val", folder="val", views=0))
    views: Annotated[int, result_option("Random views per image, besides view 0, the evaluation view.", ge=1)] = 4
    policy: Annotated[
        StoredPolicySetting,
        result_option(
            f"Augmentation of the random views: {', '.join(STORED_POLICIES)}; or {TEN_CROP}, {CROPS} fixed views."
        ),
    ] = POLICIES["crop-flip"]
    scaled_decoding: Annotated[
        bool,
        result_option(
            "Decode photographs at half of their size if the short side is then at least twice the view's, or at a "
            "quarter: quicker for large ones, with slightly other pixels, which students see too."
        ),
    ] = False
    seed: Annotated[
        int, result_option("Seed of the augmentation parameters, and of random/NAME's weights.", ge=0, lt=2**64)
    ] = 0
    batch_size: Annotated[int, result_option("Images per forward pass.", ge=1)] = 128
    precision: Annotated[
        Precision,
        result_option(
            "Precision of the teacher; auto is float32 on a CPU and float16 on a GPU. Half precision is compared "
            "with float32 on up to 1,000 images first."
        ),
    ] = "auto"
    compile: Annotated[bool, result_option("Compile the teacher with torch.compile; needs a C++ compiler.")] = False
    normalise: Annotated[
        bool,
        result_option(
            "Write L2-normalised embeddings, for a network whose outputs float16 cannot hold; students and "
            "evaluations do not use the lengths."
        ),
    ] = False
    block_rows: Annotated[
        int | None,
        result_option(
            "Images per block, the unit of resuming (default: 16 MiB per view at most). A forward pass ends with its "
            "block.",
            ge=1,
        ),
    ] = None
    part: Annotated[
        Annotated[Part, BeforeValidator(_parse_part, json_schema_input_type=str)] | None,
        runtime_option("I/N: embed only every N-th block, from the I-th on; 'store merge' joins stores of N machines."),
    ] = None
    patches: Annotated[
        int | None,
        result_option(
            "Write the teacher's patches too: its last feature map, pooled to a grid and projected to K principal "
            "components, in 8 bits.",
            ge=1,
        ),
    ] = None
    patch_grid: Annotated[
        int | None,
        result_option(
            f"Side of the patches' grid, at most the map's (default: {PATCH_GRID}, or the map's).", ge=1, le=MAX_GRID
        ),
    ] = None
    patch_views: Annotated[
        int | None, result_option("Write patches of view 0 and the first N random views (default: all).", ge=0)
    ] = None
    add_views: Annotated[
        int | None,
        result_option(
            "Add N random views to the splits of a complete store that have random views. Other options default to "
            "the store's; --policy may differ.",
            ge=1,
        ),
    ] = None
    add_images: Annotated[
        bool, result_option("Append the images that are new in the dataset to a complete store, in all its views.")
    ] = False
    pixel_hashes: Annotated[
        int, runtime_option("Log hashes of about this many rendered views to STORE.pixel-hashes.jsonl.", ge=0)
    ] = 0

    @field_validator("split")
    @classmethod
    def _distinct(cls, splits: tuple[SplitSource, ...]) -> tuple[SplitSource, ...]:
        if len({split.name for split in splits}) < len(splits):
            raise ValueError("two splits have the same name; name each once.")
        return splits

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.adds:
            how, given = "--add-views" if self.add_views else "--add-images", self.model_fields_set
            if self.overwrite:
                raise ValueError(f"--overwrite makes a new store, {how} keeps the one that is there; give one of them.")
            if self.gives_views:
                raise ValueError(f"{how} takes the views that the store has; leave --views and NAME:VIEWS out.")
            if "policy" in given and (not self.add_views or isinstance(self.policy, TenCrop)):
                raise ValueError(f"--policy with {how} must be one of random views to be added; leave it out.")
            if {"patches", "patch_grid", "patch_views"} & given:
                raise ValueError(f"{how} writes patches as the store has them; leave --patches and the like out.")
        elif self.patches is None and not (self.patch_grid is None and self.patch_views is None):
            raise ValueError("--patch-grid and --patch-views do nothing without --patches; give it, or leave them out.")
        if self.patch_views is not None and self.patch_views > (most := max(map(self.views_of, self.split))):
            raise ValueError(f"--patch-views {self.patch_views} is more than the {most} random views; lower it.")
        if isinstance(self.policy, TenCrop) and {self.views_of(source) for source in self.split} - {0, CROPS}:
            raise ValueError(f"--policy {TEN_CROP} is {CROPS} views; give --views {CROPS}.")
        if self.renderer == "auto" and (self.uses_dask or self.part):
            raise ValueError(
                "--renderer auto measures this machine, and others share the work; give --renderer dali or torchvision."
            )
        if self.pixel_hashes and self.uses_dask:
            raise ValueError("--pixel-hashes is a log of one process; leave --workers and --scheduler out.")
        if self.pixel_hashes and not self.store.is_local:
            raise ValueError(
                f"--pixel-hashes writes a file beside the store, and '{self.store}' is not on a disk; leave it out."
            )
        return self

    @property
    def adds(self) -> bool:
        """True if views or images are added to an existing store."""
        return self.add_views is not None or self.add_images

    @property
    def gives_views(self) -> bool:
        """True if the number of views was given."""
        given = self.model_fields_set
        return "views" in given or ("split" in given and any(source.views is not None for source in self.split))

    def views_of(self, source: SplitSource) -> int:
        """Return the number of views of a split, without view 0."""
        return self.views if source.views is None else source.views
