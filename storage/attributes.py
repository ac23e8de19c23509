"""Types of a store's attributes, checked when it is opened; docs/store-format.md describes them.

Attributes of other releases are kept as they are. One that is there has its type; one that is missing is an error of
whatever needs it, since early stores lack some.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, Field, FiniteFloat
from typing_extensions import TypedDict

from compress_ssl.storage.errors import StoreDamagedError
from compress_ssl.storage.typed_json import check_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compress_ssl.storage.places.place import Place

SIZE_LIMIT = 2**48
"""Of rows, views, features: more than any store can have, and products of two still fit numpy's sizes."""

MAX_PIXELS = 2**14  # of a view's side: it decides the memory for a batch of views

MAX_GRID, MAX_CHANNELS = 2**7, 2**16  # of patches

OTHERWISE = "restore it from a copy, or embed again"

MIXING = frozenset({"mixup", "cutmix"})
"""Keys of a policy whose views are mixed: the probabilities of both."""

Count = Annotated[int, Field(ge=0, lt=SIZE_LIMIT)]
Pixels = Annotated[int, Field(ge=1, le=MAX_PIXELS)]


class _Teacher(TypedDict, total=False):
    name: str
    architecture: str
    weights_sha256: str
    feature_layer: str
    feature_dim: Count
    pool: str
    mean: list[FiniteFloat]
    std: list[FiniteFloat]
    interpolation: str
    precision: str
    normalised: bool


class _DataSet(TypedDict, total=False):
    name: str
    images: Count
    fingerprint: dict[str, str]


class _Rendering(TypedDict, total=False):
    renderer: str
    device_kind: str


class _ComputedWith(TypedDict, total=False):
    versions: dict[str, str]


class _Policy(TypedDict):
    name: str
    resize: NotRequired[Pixels]
    squash: NotRequired[bool]


class _View(TypedDict):
    size: Pixels
    policy: NotRequired[_Policy]
    seed: NotRequired[int | None]
    interpolation: NotRequired[str]
    shrink: NotRequired[Literal[1, 2, 4]]


class _Room(TypedDict, total=False):
    views: Count
    samples: Count


class _Patches(TypedDict):
    grid: Annotated[int, Field(ge=1, le=MAX_GRID)]
    components: Annotated[int, Field(ge=1)]
    channels: Annotated[int, Field(ge=1, le=MAX_CHANNELS)]
    views: list[Count]
    explained_variance: Annotated[float, Field(ge=0, le=1)]
    fitted_on: Count
    reconstruction_cosine: Annotated[float, Field(ge=-1, le=1)]


def _possible(patches: _Patches) -> _Patches:
    if patches["components"] > patches["channels"]:
        raise ValueError(f"{patches['components']} components of {patches['channels']} channels")
    if patches["views"] != sorted(set(patches["views"])):
        raise ValueError("views that are not in ascending order")
    return patches


class _Split(TypedDict):
    folder: str
    class_names: list[str]
    views: Annotated[list[_View], Field(min_length=1)]
    block_rows: Annotated[Count, Field(ge=1)]
    samples: NotRequired[Count]
    room: NotRequired[_Room]
    patches: NotRequired[Annotated[_Patches, AfterValidator(_possible)]]


class _Root(TypedDict):
    splits: list[Any]
    teacher: NotRequired[_Teacher]
    data_set: NotRequired[_DataSet]
    rendering: NotRequired[_Rendering]
    computed_with: NotRequired[_ComputedWith]
    canaries: NotRequired[dict[str, list[Any]]]
    growing: NotRequired[dict[str, _Split]]


class Attributes(dict[str, Any]):
    """Attributes of a store's group, or a table in them; one that is missing is an error that names the file."""

    where: str

    @classmethod
    def of(cls, where: str, values: Mapping[str, Any]) -> Attributes:
        """Return attributes and the tables in them as such."""
        attributes = cls({name: _wrapped(where, value) for name, value in values.items()})
        attributes.where = where
        return attributes

    def __missing__(self, name: str) -> Any:
        raise StoreDamagedError(f"'{self.where}' lacks the attribute {name!r}; {OTHERWISE}.")


def _wrapped(where: str, value: Any) -> Any:
    if isinstance(value, dict):
        return Attributes.of(where, value)
    return [_wrapped(where, each) for each in value] if isinstance(value, list) else value


def root_attributes(place: Place, values: Mapping[str, Any]) -> Attributes:
    """Return the attributes of a store's root.

    Raises:
        UnreadableFileError: Naming the first that has another type.
    """
    check_value(f"{place}/zarr.json", values, _Root, otherwise=OTHERWISE)
    return Attributes.of(f"{place}/zarr.json", values)


def split_attributes(place: Place, values: Mapping[str, Any]) -> Attributes:
    """Return the attributes of a split. Raises as ``root_attributes``."""
    check_value(f"{place}/zarr.json", values, _Split, otherwise=OTHERWISE)
    return Attributes.of(f"{place}/zarr.json", values)


def is_mixed(view: Mapping[str, Any]) -> bool:
    """Return whether images of a view, as a store describes it, are mixed."""
    return bool(MIXING & (view.get("policy") or {}).keys())
