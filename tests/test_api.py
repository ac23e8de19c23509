"""The Python API: each name can be imported from ``compress_ssl``; importing the package loads nothing heavy."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import compress_ssl
from compress_ssl.pipeline.distill.objectives import OBJECTIVES

ROOT = Path(__file__).parents[1]


def test_every_public_name_is_what_its_module_defines() -> None:
    for name, module in compress_ssl.MODULES.items():
        assert getattr(compress_ssl, name) is getattr(importlib.import_module(module), name), name
    with pytest.raises(AttributeError, match="has no attribute 'embedd'"):
        compress_ssl.embedd  # noqa: B018


def test_stages_their_settings_and_all_objectives_are_public() -> None:
    stages = {"embed", "distill", "evaluate", "pretrain", "open_store", "describe", "load_network"}
    settings = {"EmbedSettings", "DistillSettings", "KnnSettings", "PretrainSettings"}
    assert stages | settings <= set(compress_ssl.__all__)
    assert set(compress_ssl.__all__) == compress_ssl.MODULES.keys() | {"__version__"}
    assert set(compress_ssl.__all__) <= set(dir(compress_ssl))
    assert compress_ssl.__version__ == importlib.metadata.version("compress-ssl")
    for objective in OBJECTIVES.values():
        module, _, name = objective.partition(":")
        assert compress_ssl.MODULES[name] == module


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "compress_ssl" / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: node.module for node in imports for alias in node.names} == compress_ssl.MODULES


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = "import compress_ssl, sys; print({'torch', 'zarr', 'numpy', 'pydantic'} & sys.modules.keys())"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
