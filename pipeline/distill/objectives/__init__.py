"""Objectives: losses between student and teacher, usable without the pipeline; here is their registry.

No torch here: settings and ``--help`` read it.

An objective is a module, called with the student and a batch for the loss; it works on plain tensors, without settings
or stores (see ``objective.py``). To add one, write its file and add a line here: its options, with their help, bounds
and defaults, are the keyword parameters of its constructor.
"""

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from compress_ssl.pipeline.distill.objectives import options

OBJECTIVES: dict[str, str] = {
    "compress-2q": "compress_ssl.pipeline.distill.objectives.compress_2q:CompRess2q",
    "compress-1q": "compress_ssl.pipeline.distill.objectives.compress_1q:CompRess1q",
    "reg": "compress_ssl.pipeline.distill.objectives.regression:Regression",
    "reg-bn": "compress_ssl.pipeline.distill.objectives.regression:RegressionBN",
    "simreg": "compress_ssl.pipeline.distill.objectives.regression:SimReg",
    "seed": "compress_ssl.pipeline.distill.objectives.seed:SEED",
    "crd": "compress_ssl.pipeline.distill.objectives.crd:CRD",
    "cc": "compress_ssl.pipeline.distill.objectives.cluster_classification:ClusterClassification",
    "unic": "compress_ssl.pipeline.distill.objectives.unic:UNIC",
    "koleo": "compress_ssl.pipeline.distill.objectives.koleo:KoLeo",
    "bingo": "compress_ssl.pipeline.distill.objectives.bingo:BINGO",
    "retro": "compress_ssl.pipeline.distill.objectives.retro:Retro",
    "lightly": "compress_ssl.pipeline.distill.objectives.lightly:Lightly",
}  # by name, ``module:Class``. The default of an option that several have is that of the first one here.

DEFAULT_OBJECTIVE: Final = "compress-2q"

SUPPLIED = ("teacher_dim", "student_dim", "images", "seed", "precision", "projection_head")
"""Keyword parameters that the pipeline supplies; all others but ``head`` are options."""


def read_signature(objective: str) -> dict[str, tuple[Any, Any]]:
    """Return the options of an objective, ``head`` included: by name, each one's annotation and default.

    They are read from the source file: importing that would load torch. Annotations are evaluated where ``options`` and
    what that module imports are known; defaults are literals.
    """
    module, _, class_name = OBJECTIVES[objective].partition(":")
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    classes = [node for node in ast.parse(Path(spec.origin).read_bytes()).body if isinstance(node, ast.ClassDef)]
    (body,) = (node.body for node in classes if node.name == class_name)
    (init,) = (node.args for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    known = {**vars(options), "options": options}
    found = {}
    for parameter, default in zip(init.kwonlyargs, init.kw_defaults, strict=True):
        if parameter.arg not in SUPPLIED:
            assert parameter.annotation is not None
            assert default is not None
            found[parameter.arg] = eval(ast.unparse(parameter.annotation), known), ast.literal_eval(default)
    return found
