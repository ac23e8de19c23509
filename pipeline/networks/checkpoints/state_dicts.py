"""The state dicts of a checkpoint file: which there are, which is taken, and their keys without wrappers' prefixes."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.networks.checkpoints.file import CheckpointFile

EMA = ("state_dict_ema", "model_ema")
"""Averaged weights, which are what timm takes (``load_state_dict`` in timm/models/_helpers.py, release 1.0.31) and what
torchvision publishes. Not ``ema_state_dict``: MMEngine keeps the averaged weights in ``state_dict`` and the others in
that (mmengine/hooks/ema_hook.py, commit b14c179)."""

CONTAINERS = (
    *("state_dict", "model", "teacher", "student", "network", "model_state_dict"),
    "module",  # DeepSpeed's mp_rank_00_model_states.pt (deepspeed/runtime/engine.py)
    "classy_state_dict.base_model.model.trunk",  # VISSL
    "",  # the file itself
)
"""Keys of the state dict in a file that holds more. DINO's authors evaluate its teacher."""

PARALLEL = "module."  # prefix of (Distributed)DataParallel, and of torch's AveragedModel, which counts in N_AVERAGED
N_AVERAGED = "n_averaged"

WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and activation checkpointing insert after the name of any module that they wrap."""

DEEPEST = 6  # keys to a state dict


class StateDict(NamedTuple):
    """One of the state dicts of a file."""

    part: str  # its key in the file, dotted, or what its tensors' names started with; empty for the file itself
    tensors: dict[str, Tensor]
    is_parallel: bool  # its keys had the prefix of parallel training
    usual: str  # key of what is taken if nothing is chosen and nothing is averaged
    beside: tuple[str, ...]  # keys of the file's other state dicts of about the same size

    @property
    def container(self) -> str:
        """The key, followed by ``module.`` if all tensors had that prefix."""
        return f"{self.part} {PARALLEL}".strip() if self.is_parallel else self.part


def take_state_dict(file: CheckpointFile, part: str | None = None) -> StateDict:
    """Take a state dict: the part asked for, else averaged weights, else the first of ``CONTAINERS``.

    Args:
        part: Key of a state dict in the file, dotted where it is nested, or the start of names in the usual one, such
            as MoCo's ``encoder_k``.

    Raises:
        InputError: If the file has no state dict, or not this part.
    """
    found = _state_dicts(file.content)
    averaged, usual = (next((name for name in names if name in found), None) for names in (EMA, CONTAINERS))
    taken = part if part in found else averaged or usual
    if taken is None:
        raise _no_weights(file, found)
    tensors, is_parallel = _without_wrappers(found[taken])
    if part is not None and part not in found:
        prefix = f"{part}."
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if not tensors:
            parts = ", ".join(f"#{name}" for name in found if name) or "nothing to choose"
            raise InputError(f"'{file.path}' has no part '{part}'; it has {parts}.")
        taken = part
    beside = tuple(name for name in found if name not in ("", taken) and 2 * len(found[name]) >= len(tensors))
    return StateDict(taken, tensors, is_parallel, taken if usual is None else usual, beside)


def _state_dicts(content: Any) -> dict[str, Mapping[Any, Any]]:
    """Return the mappings in a file that hold tensors, by their dotted keys."""
    found: dict[str, Mapping[Any, Any]] = {}
    seen: set[int] = set()
    pending: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), content)] if isinstance(content, Mapping) else []
    while pending:
        keys, value = pending.pop(0)
        if any(isinstance(each, Tensor) for each in value.values()):
            found[".".join(keys)] = value
        if id(value) not in seen and len(keys) < DEEPEST:
            seen.add(id(value))
            named = {key: each for key, each in value.items() if isinstance(key, str) and isinstance(each, Mapping)}
            pending += [((*keys, key), each) for key, each in named.items()]
    return found


def _without_wrappers(state: Mapping[Any, Any]) -> tuple[dict[str, Tensor], bool]:
    """Return the tensors by the names of the network itself, and whether all names had a wrapper's prefix."""
    tensors = {WRAPPERS.sub("", str(key)): value for key, value in state.items() if isinstance(value, Tensor)}
    tensors.pop(N_AVERAGED, None)
    if not all(key.startswith(PARALLEL) for key in tensors):
        return tensors, False
    return {key.removeprefix(PARALLEL): value for key, value in tensors.items()}, True


def _no_weights(file: CheckpointFile, found: Mapping[str, Any]) -> InputError:
    keys = [str(key) for key in file.content][:5] if isinstance(file.content, Mapping) else []
    if found:
        return InputError(
            f"'{file.path}' holds weights only under {', '.join(found)}; choose with FILE#{next(iter(found))}."
        )
    return InputError(
        f"'{file.path}' holds no weights{f' under its keys {keys}' if keys else ''}; give a file with a state dict (at "
        f"the top level, or under {', '.join(name for name in CONTAINERS if name)})."
    )
