"""The plan of the code: who may import whom, read from the source; and what ``--help`` must not import."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import click
import pytest

from compress_ssl.cli.main import main

ROOT = Path(__file__).parents[1]
FOLDERS = ("cli", "pipeline", "storage")

LIBRARIES = {"storage", "pipeline/common", "pipeline/images", "pipeline/networks", "pipeline/training"}
STAGES = {"pipeline/embed", "pipeline/distill", "pipeline/pretrain", "pipeline/export", "pipeline/evaluate"}

MAY_IMPORT: dict[str, set[str]] = {
    "storage": set(),
    "pipeline/common": {"storage"},
    "pipeline/images": {"storage", "pipeline/common"},
    "pipeline/networks": {"storage", "pipeline/common"},
    "pipeline/training": {"storage", "pipeline/common"},
    "pipeline/dask": {"storage", "pipeline/common"},
    "pipeline/embed": LIBRARIES - {"pipeline/training"} | {"pipeline/dask"},
    "pipeline/distill": LIBRARIES,
    "pipeline/pretrain": LIBRARIES,
    "pipeline/export": LIBRARIES,
    "pipeline/evaluate": LIBRARIES | {"pipeline/embed"},
    "pipeline/recipe": LIBRARIES | STAGES,
    "pipeline/doctor": LIBRARIES | STAGES | {"pipeline/dask"},
    "cli": LIBRARIES | STAGES | {"pipeline/dask", "pipeline/recipe", "pipeline/doctor"},
}
"""Each folder, lowest first, and the others it may import."""

NOT_FOR = {
    "storage": {"torch", "torchvision", "PIL", "nvidia", "faiss", "click", "rich"},
    "pipeline": {"click", "rich"},
    "cli": {"torch", "torchvision", "nvidia", "faiss", "zarr", "numpy"},
}
"""Libraries that a folder must not import."""

OLD_NAMES = {"cli", "pipeline", "storage"}


def purpose(folder: Path) -> str:
    """Return the first line of a package's docstring."""
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert docstring, f"{folder}/__init__.py has no docstring"
    return docstring.splitlines()[0].replace("``", "")


def floors() -> list[list[str]]:
    """Return the folders by floor, lowest first: a folder imports from floors below its own only."""
    sorter = TopologicalSorter(MAY_IMPORT)
    sorter.prepare()
    found = []
    while sorter.is_active():
        found.append(sorted(sorter.get_ready()))
        sorter.done(*found[-1])
    return found


def imports_in_words(folder: str) -> str:
    """Return what a folder may import, with a word for all libraries and one for all stages."""
    left, words = set(MAY_IMPORT[folder]), []
    for name, group in (("libraries", LIBRARIES), ("stages", STAGES)):
        if group <= left:
            words.append(name)
            left -= group
    return ", ".join((*words, *sorted(name.removeprefix("pipeline/") for name in left))) or "nothing"


def code_map() -> str:
    """Return the folders from the highest floor to the lowest: purpose, and in brackets what each may import.

    Print it by ``make map``; README's section "The code" holds it.
    """
    lines = []
    for number, folders in reversed(list(enumerate(floors(), 1))):
        for name in folders:
            lines.append(f"{number}  {name + '/':<20} {purpose(ROOT / name)} [{imports_in_words(name)}]")
            below = sorted(path.parent for path in (ROOT / name).rglob("__init__.py") if path.parent != ROOT / name)
            lines += [f"{'':<5}{path.relative_to(ROOT / name).as_posix() + '/':<18} {purpose(path)}" for path in below]
    groups = (("libraries", LIBRARIES), ("stages", STAGES))
    for word, group in groups:
        lines.append(f"{word}: {', '.join(sorted(name.removeprefix('pipeline/') for name in group))}")
    return "\n".join(lines) + "\n"


def product_files() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    return "compress_ssl." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in product_files()}


def folder_of(module: str) -> str:
    """The row of the table that a module of ours belongs to; the module itself if it is in none."""
    parts = module.split(".")[1:]
    return "/".join(parts[:2]) if parts[0] == "pipeline" else parts[0]


def imported(path: Path) -> set[str]:
    """Full names of the modules a file imports, wherever in the file and whether or not for types only."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)} has a relative import"
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (below & MODULES.keys()) or {str(node.module)}
    return names


IMPORTS = {module: imported(path) for module, path in MODULES.items()}


def test_every_module_is_in_a_folder_of_the_plan() -> None:
    packages = {"compress_ssl.pipeline"}
    assert {folder_of(module) for module in MODULES.keys() - packages} == MAY_IMPORT.keys()


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_folder_imports_only_what_the_plan_allows(folder: str) -> None:
    allowed = MAY_IMPORT[folder] | {folder}
    for module, names in IMPORTS.items():
        if folder_of(module) == folder:
            wrong = {name for name in names if name.startswith("compress_ssl.") and folder_of(name) not in allowed}
            assert not wrong, f"{module} imports {sorted(wrong)}"


def test_folders_have_no_import_cycle() -> None:
    assert list(TopologicalSorter(MAY_IMPORT).static_order())


def test_readme_has_the_map_of_the_code() -> None:
    """After a change of the plan or of a package's docstring: ``make map``, and copy what it prints."""
    section = (ROOT / "README.md").read_text().split("\n## The code\n")[1]
    assert section.split("```\n")[1] == code_map()


def test_modules_have_no_import_cycle() -> None:
    """Type-only imports count, and so do a package's own imports."""
    try:
        TopologicalSorter({module: names & MODULES.keys() for module, names in IMPORTS.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("folder", NOT_FOR)
def test_folder_imports_no_library_that_is_not_for_it(folder: str) -> None:
    for module, names in IMPORTS.items():
        if module.split(".")[1] == folder:
            wrong = {name.split(".")[0] for name in names} & NOT_FOR[folder]
            assert not wrong, f"{module} imports {sorted(wrong)}"


def test_nothing_is_imported_under_an_old_name() -> None:
    of_tests = {str(path): imported(path) for path in (ROOT / "tests").rglob("*.py")}
    for module, names in {**IMPORTS, **of_tests}.items():
        wrong = {name for name in names if name.split(".")[0] in OLD_NAMES}
        assert not wrong, f"{module} imports {sorted(wrong)}; write compress_ssl.{min(wrong)}"


def test_settings_recipes_and_commands_load_no_heavy_library() -> None:
    modules = [name for name in MODULES if name.endswith("settings") or folder_of(name) == "cli"]
    assert "compress_ssl.pipeline.embed.settings" in modules
    program = (
        f"import importlib, sys\nfor name in {[*modules, 'compress_ssl.pipeline.recipe.steps']}:\n"
        "    importlib.import_module(name)\n"
        "print([name for name in ('numpy', 'torch', 'torchvision', 'nvidia', 'faiss', 'zarr', 'sklearn', 'h5py') if "
        "name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_help_loads_no_heavy_library() -> None:
    """In one process: whatever any of the helps loads stays loaded."""
    commands = ["", *main.list_commands(click.Context(main)), "chain embed"]
    program = (
        "import sys\nfrom compress_ssl.cli.main import main\n"
        f"for words in {[[*command.split(), '--help'] for command in commands]}: main(words, standalone_mode=False)\n"
        "print([name for name in ('numpy', 'torch', 'zarr', 'nvidia', 'faiss', 'h5py', 'rich') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.count("Usage:") == len(commands)
    assert answer.stdout.splitlines()[-1] == "[]"


def test_only_zarrs_public_modules_are_imported() -> None:
    """``zarr.core`` and modules with an underscore change without notice."""
    for module, names in IMPORTS.items():
        private = {name for name in names if re.match(r"zarr\.(core\b|(.*\.)?_)", name)}
        assert not private, f"{module} imports {sorted(private)}"


def test_only_the_places_of_stores_ask_for_their_class() -> None:
    """Elsewhere whatever depends on the kind of a place is a method of ``Place``."""
    for module, path in MODULES.items():
        if not module.startswith("compress_ssl.storage.places."):
            found = re.findall(r"isinstance\([^()]*\b(?:RemotePath|LocalPath)\b.*", path.read_text(encoding="utf-8"))
            assert not found, f"{module}: {found[0]}"
