"""Who may import whom, read from the source; and what must not be imported for ``--help``."""

import ast
import subprocess
import sys
from pathlib import Path

import click
import pytest

from compress_ssl.cli.main import main

ROOT = Path(__file__).parents[1]
LAYERS = ("cli", "pipeline", "storage")
STAGES = ("pretrain", "embed", "importing", "distill", "evaluate", "export", "report")
SETTINGS_MODULES = sorted((ROOT / "pipeline").rglob("settings.py"))

MAY_NOT_IMPORT = {
    "storage": {"pipeline", "cli", "torch", "torchvision", "PIL", "nvidia", "faiss", "click", "pydantic"},
    "pipeline": {"cli", "click", "rich"},
    "cli": {"torch", "torchvision", "nvidia", "faiss", "zarr", "numpy"},
}


def imported_names(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)} has a relative import"
            names.add(str(node.module))
    return names


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_imports_nothing_that_it_should_not_know(layer: str) -> None:
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    for path in files:
        wrong = {name.split(".")[0] for name in imported_names(path)} & MAY_NOT_IMPORT[layer]
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("stage", STAGES)
def test_stage_imports_no_other_stage_except_evaluate_embed(stage: str) -> None:
    files = sorted((ROOT / "pipeline" / stage).rglob("*.py"))
    assert files
    for path in files:
        stages = {name.split(".")[1] for name in imported_names(path) if name.startswith("pipeline.")} & set(STAGES)
        allowed = {stage} | ({"embed"} if stage == "evaluate" else set())
        assert stages <= allowed, f"{path.relative_to(ROOT)} imports {sorted(stages - allowed)}"


def test_shared_modules_import_no_stage() -> None:
    """Below the stages lie images, networks and training; recipe.py, steps.py, runner.py and sweep/ are above them."""
    for folder in ("images", "networks", "training"):
        for path in sorted((ROOT / "pipeline" / folder).rglob("*.py")):
            for name in imported_names(path):
                assert name.split(".")[:1] != ["pipeline"] or name.split(".")[1] not in STAGES, (path, name)


def test_settings_recipes_and_commands_load_no_heavy_library() -> None:
    modules = [module_name(path) for path in [*SETTINGS_MODULES, *sorted((ROOT / "cli").glob("[!_]*.py"))]]
    assert "compress_ssl.pipeline.embed.settings" in modules
    assert "compress_ssl.cli.embed" in modules
    program = (
        f"import importlib, sys\nfor name in {[*modules, 'compress_ssl.pipeline.recipe.steps']}: importlib.import_module(name)\n"
        "print([name for name in ('torch', 'torchvision', 'nvidia', 'faiss', 'zarr', 'sklearn', 'h5py') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["", *main.list_commands(click.Context(main)), "chain embed"])
def test_help_loads_no_heavy_library(command: str) -> None:
    program = (
        f"import sys\nfrom compress_ssl.cli.main import main\nmain({[*command.split(), '--help']}, standalone_mode=False)\n"
        "print([name for name in ('torch', 'zarr', 'nvidia', 'faiss', 'h5py', 'rich') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("Usage:")
    assert answer.stdout.splitlines()[-1] == "[]"
