"""Options of the objectives, read from the signatures in their source files: importing those would load torch."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from compress_ssl.pipeline.distill.objectives import OBJECTIVES, options

SUPPLIED = ("teacher_dim", "student_dim", "images", "seed", "precision")
"""Keyword parameters that the pipeline supplies; all others but ``head`` are options."""


def read_signature(objective: str) -> dict[str, tuple[Any, Any]]:
    """Return the options of an objective, ``head`` included: by name, each one's annotation and default.

    Annotations are evaluated where ``options`` and what that module imports are known; defaults are literals.
    """
    module, _, class_name = OBJECTIVES[objective].partition(":")
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    classes = [node for node in ast.parse(Path(spec.origin).read_bytes()).body if isinstance(node, ast.ClassDef)]
    (body,) = (node.body for node in classes if node.name == class_name)
    (init,) = (node.args for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    return {
        parameter.arg: (_evaluate(parameter.annotation), _evaluate(default))
        for parameter, default in zip(init.kwonlyargs, init.kw_defaults, strict=True)
        if parameter.arg not in SUPPLIED
    }


def _evaluate(node: ast.expr | None) -> Any:
    assert node is not None
    return eval(ast.unparse(node), {**vars(options), "options": options})
