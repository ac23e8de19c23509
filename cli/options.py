"""Click parameters from the fields of settings, which define name, type, help and default."""

from __future__ import annotations

import types
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import click
from pydantic import ValidationError

from compress_ssl.pipeline.common.settings import Settings, explain
from compress_ssl.storage import Place, StoreError
from compress_ssl.storage.places.urls import check_is_path

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pydantic.fields import FieldInfo

SettingsT = TypeVar("SettingsT", bound=Settings)


class LocalPathType(click.Path):
    """A path of this machine, whether or not there is anything; a URL, of which Path would make a folder, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path."""
        try:
            check_is_path(value)
        except StoreError as error:
            self.fail(str(error), param, ctx)
        return Path(value)


LOCAL_PATH = LocalPathType(path_type=Path)


def settings_options(
    model: type[Settings], *, without: Collection[str] = (), optional: Collection[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds an argument or option for every field of a settings model.

    Args:
        without (collection of str): Fields without a parameter.
        optional (collection of str): Required fields or arguments to turn into optional options.
    """
    fields = {name: field for name, field in model.model_fields.items() if name not in without}
    arguments = [name for name, field in fields.items() if _is_argument(field) and name not in optional]
    required = {name for name, field in fields.items() if field.is_required() and name not in optional}

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in sorted(fields.keys() - set(arguments), key=lambda name: (name not in required, name), reverse=True):
            command = _option(name, fields[name], required=name in required)(command)
        for name in reversed(arguments):
            command = click.argument(name, type=_click_type(fields[name].annotation))(command)
        return command

    return decorate


def make_settings(model: type[SettingsT], given: dict[str, Any]) -> SettingsT:
    """Return settings from parameters; those that were not given keep their defaults.

    Raises:
        click.UsageError: If a value is not valid; names the option.
    """
    arguments = {name for name, field in model.model_fields.items() if _is_argument(field)}
    try:
        return model(**only_given(given))
    except ValidationError as error:
        raise click.UsageError(
            explain(error, lambda name: name.upper() if name in arguments else option_name(name))
        ) from error


def only_given(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that were given on the command line."""
    return {name: value for name, value in parameters.items() if value is not None and value != ()}


def option_name(field: str) -> str:
    """Return the option of a field: ``batch_size`` is ``--batch-size``."""
    return f"--{field.replace('_', '-')}"


def _is_argument(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("argument"))


def _option(name: str, field: FieldInfo, *, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    help_text = field.description or ""
    if field.annotation in (bool, bool | None):
        negation = "" if field.default is False else f"/--no-{option_name(name).removeprefix('--')}"
        return click.option(option_name(name) + negation, name, is_flag=True, default=None, help=help_text)
    if not field.is_required() and field.default not in (None, ()):
        shown = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        help_text += f"  [default: {shown}]"
    value, repeatable = _click_type(field.annotation), get_origin(field.annotation) is tuple
    return click.option(option_name(name), name, type=value, multiple=repeatable, required=required, help=help_text)


def _click_type(annotation: Any) -> click.ParamType[Any]:
    """Return the click type of an annotation; a string that pydantic parses if click has no such type."""
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        annotation = members[0] if len(members) == 1 else str
    if get_origin(annotation) in (tuple, Annotated):
        return _click_type(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    if annotation is Place:  # a path or a URL, where Path would drop a slash
        return click.Path()
    if annotation is Path:
        return LOCAL_PATH
    if annotation in (int, float):
        return click.INT if annotation is int else click.FLOAT
    return click.STRING
