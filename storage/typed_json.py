"""JSON that may come from anybody, or be damaged, as values of a known type; ``typed_files`` reads it from files.

It may be nested 200 levels deep at most (the limit of pydantic's parser), and must fit a pydantic model, or a type such
as ``dict[str, int]``. What does not is an ``UnreadableFileError``: one sentence with the first fault.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from compress_ssl.storage.errors import UnreadableFileError

if TYPE_CHECKING:
    from collections.abc import Callable

OTHERWISE = "restore it from a copy"

T = TypeVar("T")

_adapter = cast("Callable[[Any], TypeAdapter[Any]]", lru_cache(maxsize=128)(TypeAdapter))


class FileModel(BaseModel):
    """Base of the models of files: types are not converted, and keys of other releases are kept."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


def parse_json(where: object, content: bytes | str, model: type[T], *, otherwise: str = OTHERWISE) -> T:
    """Return what JSON bytes hold, as ``model``.

    Args:
        where: Name of the file for the error.
        otherwise: What the user is to do if it cannot be used: the end of the error's sentence.

    Raises:
        UnreadableFileError: If they are no JSON, or do not fit the model.
    """
    try:
        value: T = _adapter(model).validate_json(content, strict=True)
    except ValidationError as error:
        raise UnreadableFileError(where, _first_fault(error), otherwise) from error
    return value


def check_value(where: object, value: Any, model: type[T], *, otherwise: str = OTHERWISE) -> T:
    """Return a value that another library has read, such as zarr's attributes, as ``model``. Raises as above."""
    try:
        checked: T = _adapter(model).validate_python(value, strict=True)
    except ValidationError as error:
        raise UnreadableFileError(where, _first_fault(error), otherwise) from error
    return checked


def _first_fault(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return f"is not valid JSON ({first['ctx']['error']})"
    what = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"lacks '{what}'"
    message = first["msg"].removeprefix("Value error, ").replace("a valid dictionary", "an object")
    return f"has a wrong {what} ({message})" if what else f"holds something else ({message})"
