"""Networks of users: a function without arguments that returns a module and its preprocessing.

It is named as ``MODULE:FUNCTION``, by an entry point of an installed package, or by ``register_network``. The module
turns normalized float32 images (B, 3, S, S) into features (B, F).

Letters: B batch, S side of the images in pixels, F features.
"""

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.tensor_files import not_finite
from compress_ssl.pipeline.common.torch_errors import is_out_of_memory
from compress_ssl.pipeline.networks.preprocessing import Preprocessing, PreprocessingRecord

GROUP = "compress_ssl.teachers"  # of entry points

FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")  # MODULE:FUNCTION

Build = Callable[[], tuple[nn.Module, Preprocessing | Mapping[str, Any]]]

REGISTERED: dict[str, Build] = {}


def register_network(name: str, build: Build) -> None:
    """Let a name stand for a network of this process, wherever the Python API takes a reference.

    Args:
        build: Returns the module and its preprocessing; for a module that is at hand, ``lambda: (module,
            preprocessing)``. It is called each time the network is loaded, and the module is moved to the device.

    Raises:
        InputError: If the name is not a plain one.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise InputError(f"'{name}' cannot name a network; take letters, digits, '_', '-' and '.' only.")
    REGISTERED[name] = build


@cache
def entry_points_by_name() -> dict[str, EntryPoint]:
    """Return the networks of installed packages."""
    return {point.name: point for point in entry_points(group=GROUP)}


def package_of(point: EntryPoint) -> str:
    """Return the name of the package that declares an entry point."""
    return point.dist.name if point.dist else "unknown"


def is_users(name: str) -> bool:
    """Return True for ``MODULE:FUNCTION``, a registered network or one of an installed package."""
    return FUNCTION.fullmatch(name) is not None or name in REGISTERED or name in entry_points_by_name()


def is_of_this_process(name: str) -> bool:
    """Return True for a network that another process cannot build."""
    return name in REGISTERED or name.startswith("__main__:")


def function_of(name: str) -> str:
    """Return ``MODULE:FUNCTION`` of a network; the name of a registered one.

    Raises:
        InputError: If two packages have a network of this name.
    """
    if name in REGISTERED or name not in entry_points_by_name():
        return name
    first, *others = entry_points(group=GROUP, name=name)
    for other in others:
        if other.value != first.value:
            raise InputError(
                f"The packages {package_of(first)} and {package_of(other)} both have a network '{name}'; give "
                f"{first.value} or {other.value}."
            )
    return first.value


def build_function(name: str) -> Build:
    """Return the function that builds a network; the current folder is importable, as for ``python -m``.

    Raises:
        InputError: If it cannot be imported.
    """
    if name in REGISTERED:
        return REGISTERED[name]
    module, _, function = function_of(name).partition(":")
    if (folder := os.getcwd()) not in sys.path and "" not in sys.path:
        sys.path.append(folder)
    try:
        build: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise InputError(f"The module '{module}' of '{name}' cannot be imported: {error}.") from error
        advice = "give it without .py" if module.endswith(".py") else f"install it, or run in the folder of {module}.py"
        raise InputError(f"'{name}' names a module '{module}', which does not exist; {advice}.") from error
    except Exception as error:
        raise InputError(f"The module '{module}' of '{name}' cannot be imported: {_reason(error)}.") from error
    for part in function.split("."):
        build = getattr(build, part, None)
    if not callable(build):
        raise InputError(f"The module '{module}' has no function '{function}'; give MODULE:FUNCTION.")
    return build  # type: ignore[no-any-return]


def user_network(name: str, seed: int) -> tuple[nn.Module, int, Preprocessing]:
    """Return a network's module, its number of features, and its preprocessing.

    Args:
        seed: Of torch's generator while the function runs.

    Raises:
        InputError: If the function cannot be imported, fails, or returns something else.
    """
    build = build_function(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            built: Any = build()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise InputError(f"The function of '{name}' fails: {_reason(error)}.") from error
    if not (isinstance(built, tuple) and len(built) == 2 and isinstance(built[0], nn.Module)):
        raise InputError(f"The function of '{name}' returns {_kind(built)}; return (torch.nn.Module, preprocessing).")
    module, given = built
    preprocessing = _checked_preprocessing(name, given)
    return module, _checked_feature_dim(name, module, preprocessing.size), preprocessing


def _checked_preprocessing(name: str, given: Any) -> Preprocessing:
    """Return a user's preprocessing, with ImageNet's for what a mapping lacks."""
    if not isinstance(given, Preprocessing | Mapping):
        raise InputError(
            f"The function of '{name}' returns a {type(given).__name__} as preprocessing; return a Preprocessing or a "
            f"dict of {', '.join(PreprocessingRecord.model_fields)}."
        )
    fields = asdict(Preprocessing()) | (asdict(given) if isinstance(given, Preprocessing) else dict(given))
    try:
        preprocessing = Preprocessing(**PreprocessingRecord.model_validate(fields, strict=False).model_dump())
    except ValidationError as error:
        wrong = error.errors()[0]
        field = ".".join(map(str, wrong["loc"][:1]))
        raise InputError(f"The preprocessing of '{name}' has {field} = {fields[field]!r}: {wrong['msg']}.") from error
    if preprocessing.resize < preprocessing.size:
        raise InputError(
            f"The preprocessing of '{name}' crops {preprocessing.size} pixels from images resized to "
            f"{preprocessing.resize}; give a resize of at least the size."
        )
    if min(preprocessing.std) <= 0:
        raise InputError(f"The preprocessing of '{name}' divides by std = {preprocessing.std}; give positive numbers.")
    return preprocessing


def _checked_feature_dim(name: str, module: nn.Module, size: int) -> int:
    """Return the number of features of a user's module, from a forward pass of two images.

    Raises:
        InputError: If its weights are not finite or not on one device, or its output is not (B, F) of floating point.
    """
    devices = {str(tensor.device) for tensor in (*module.parameters(), *module.buffers())}
    if next(module.parameters(), None) is None:
        raise InputError(f"The module of '{name}' has no weights; return a network.")
    if len(devices) > 1 or "meta" in devices:
        raise InputError(f"The weights of '{name}' are on {', '.join(sorted(devices))}; put them on one device.")
    if wrong := not_finite(module):
        raise InputError(f"The weights '{wrong}' of '{name}' are not finite; load them again.")
    training = module.training
    try:
        with torch.inference_mode():
            features: Any = module.eval()(torch.zeros(2, 3, size, size, device=devices.pop()))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"The module of '{name}' cannot take normalized float32 images (2, 3, {size}, {size}): {_reason(error)}."
        ) from error
    module.train(training)
    if not isinstance(features, torch.Tensor) or features.ndim != 2 or len(features) != 2 or features.shape[1] == 0:
        raise InputError(f"The module of '{name}' returns {_kind(features)} for two images; return features (2, F).")
    if not features.is_floating_point():
        raise InputError(f"The features of '{name}' are {features.dtype}; return floating-point numbers.")
    return features.shape[1]


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, tuple):
        return f"a tuple of {', '.join(type(each).__name__ for each in value) or 'nothing'}"
    return f"a {type(value).__name__}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".rstrip(": .")
