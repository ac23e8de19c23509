"""The same facts written in several files stay the same.

The wheel holds what it should; the README's commands exist.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import click
import pytest

from compress_ssl.cli.evaluate import command as evaluations
from compress_ssl.cli.main import main
from compress_ssl.pipeline.common.errors import InputError, require_extra

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def commands(group: click.Group, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    """Every command below a group by the words that call it."""
    context = click.Context(group)
    found: dict[tuple[str, ...], click.Command] = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group) and not command.chain:
            found |= commands(command, (*path, name))
        else:
            found[(*path, name)] = command
    return found


COMMANDS = commands(main)


def code_lines(text: str) -> list[str]:
    """Lines of a page that call our command; one that goes on after a backslash is one."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [line.strip().removeprefix("$ ") for line in lines if re.match(r"\s*(\$ )?compress-ssl ", line)]


def documented_calls() -> list[str]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [line for page in pages for block in page.read_text().split("```")[1::2] for line in code_lines(block)]


def help_examples() -> list[str]:
    epilogues = [command.epilog or "" for command in (main, *COMMANDS.values())]
    return [re.split(r"  +", line)[0] for text in epilogues for line in code_lines(text)]


def dependencies(extra: str | None = None) -> list[str]:
    """Requirements of the project, or of one of its extras and the extras that it names."""
    listed = PROJECT["project"]["optional-dependencies"][extra] if extra else PROJECT["project"]["dependencies"]
    found = []
    for requirement in listed:
        own = re.fullmatch(r"compress-ssl\[(.+)\]", requirement)
        found += [each for name in own[1].split(",") for each in dependencies(name)] if own else [requirement]
    return found


def test_extra_all_holds_every_other_extra() -> None:
    extras = PROJECT["project"]["optional-dependencies"].keys() - {"all", "dev"}
    assert sorted(dependencies("all")) == sorted(each for extra in extras for each in dependencies(extra))


def test_conda_environment_lists_exactly_the_projects_dependencies_and_extras() -> None:
    lines = (ROOT / "environment.yml").read_text().splitlines()
    pip_section = lines[next(i for i, line in enumerate(lines) if line.strip() == "- pip:") + 1 :]
    listed = [line.strip().removeprefix("- ").strip("'\"") for line in pip_section if line.strip().startswith("- ")]
    assert sorted(listed) == sorted(dependencies() + dependencies("all"))


def test_conda_environment_has_the_projects_python() -> None:
    text = (ROOT / "environment.yml").read_text()
    assert f"- python{PROJECT['project']['requires-python']}\n" in text


def test_hooks_run_the_versions_of_the_dev_extra() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    pinned = dict(
        requirement.split("==")
        for requirement in PROJECT["project"]["optional-dependencies"]["dev"]
        if "==" in requirement
    )
    ruff = re.search(r"ruff-pre-commit\s+rev: v(\S+)", hooks)
    assert ruff is not None
    assert ruff[1] == pinned["ruff"]
    # mypy's hook runs the environment's own mypy; its version stands in the hook's name.
    assert re.findall(r"mypy[^\n]*?(\d+\.\d+\.\d+)", hooks) == [pinned["mypy"]]


def test_no_file_is_excepted_from_ruff_or_mypy() -> None:
    tools = PROJECT["tool"]
    assert not {"exclude", "extend-exclude", "force-exclude"} & tools["ruff"].keys()
    assert not {"per-file-ignores", "extend-per-file-ignores", "exclude"} & tools["ruff"]["lint"].keys()
    assert "exclude" not in tools["mypy"]
    for override in tools["mypy"]["overrides"]:
        assert override.keys() - {"module"} in ({"ignore_missing_imports"}, {"follow_imports"})
        assert override.get("follow_imports", "skip") == "skip"
        assert not any(module.startswith(("compress_ssl", "*")) for module in override["module"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in the wheel, built from a copy: setuptools leaves its build folder behind."""
    pytest.importorskip("setuptools", reason="building without a network needs setuptools in the environment")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("compress_ssl", "cli", "pipeline", "storage", "tests"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", str(source), "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*build, "--no-cache-dir", "-w", str(folder)], check=True, capture_output=True, timeout=100)
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built).namelist()


def test_wheel_holds_every_module_and_recipe(wheel: list[str]) -> None:
    for layer in ("cli", "pipeline", "storage"):
        for path in (ROOT / layer).rglob("*"):
            if path.suffix in {".py", ".toml"}:
                assert f"compress_ssl/{path.relative_to(ROOT).as_posix()}" in wheel
    assert "compress_ssl/pipeline/recipe/recipes/quickstart.toml" in wheel


def test_wheel_holds_nothing_else(wheel: list[str]) -> None:
    assert {name.split("/")[0] for name in wheel if ".dist-info/" not in name} == {"compress_ssl"}


def test_a_users_own_modules_of_our_folders_names_break_nothing(tmp_path: Path) -> None:
    """Neither ``import compress_ssl`` nor the command takes a ``pipeline.py`` beside the user's script for ours."""
    for name in ("pipeline.py", "cli.py", "storage/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise RuntimeError('the user's own module was imported')\n")
    program = (
        "import sys; sys.path.insert(0, '')\nimport compress_ssl.pipeline.recipe.steps, compress_ssl.cli.main\n"
        "from compress_ssl.storage import open_store\nprint(open_store.__module__)"
    )
    for words, said in (
        (["-c", program], "compress_ssl.storage.reader"),
        (["-m", "compress_ssl", "store", "list"], "There is no embedding store below '.'."),
    ):
        ended = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
        )
        assert ended.returncode == 0, ended.stderr
        assert said in ended.stdout


def test_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for words in COMMANDS:
        assert f"compress-ssl {' '.join(words)}" in readme or f"`{' '.join(words)}`" in readme


def test_there_are_documented_calls_and_examples() -> None:
    assert len(documented_calls()) >= 5
    assert len(help_examples()) >= len(COMMANDS) - 3


def parse(line: str) -> None:
    """Parse a call of the command as the command itself does."""
    words = shlex.split(re.split(r" [#|] ", line)[0])[1:]
    if words[0] == "evaluate":
        words[1:] = evaluations.named(words[1:])
    depth = 2 if words[0] in {"store", "evaluate"} else 1
    command = COMMANDS[tuple(words[:depth])]
    # Commands keep the help option they are first asked for, so they are asked as in use.
    parent = click.Context(main, **main.context_settings)
    if isinstance(command, click.Group):  # a chain: each stage takes its words, and leaves the rest
        options = next(i for i, word in enumerate(words) if word in command.commands)
        command.make_context("documented", words[depth:options], parent)
        stages = words[options:]
        while stages:
            stage = command.commands[stages[0]]
            stages = stage.make_context(
                stages[0], stages[1:], parent, allow_extra_args=True, allow_interspersed_args=False
            ).args
        return
    command.make_context("documented", words[depth:], parent)


def test_documented_calls_parse() -> None:
    for line in sorted({*documented_calls(), *help_examples()}):
        try:
            parse(line)
        except (click.ClickException, KeyError) as error:
            pytest.fail(f"{line}: {error}")


def test_commands_line_in_the_list_is_not_cut() -> None:
    for words in COMMANDS:
        assert not COMMANDS[words].get_short_help_str(limit=62).endswith("...")


def test_missing_extra_is_one_sentence_that_names_it() -> None:
    require_extra("Export to ONNX", "onnx", "onnxruntime", extra="export")
    sentence = r"^It needs the package 'not_there'; install it by: pip install 'compress-ssl\[export\]'\.$"
    with pytest.raises(InputError, match=sentence):
        require_extra("It", "onnx", "not_there", extra="export")


def test_every_extra_that_a_sentence_names_exists() -> None:
    named = {
        extra
        for layer in ("cli", "pipeline", "storage")
        for path in (ROOT / layer).rglob("*.py")
        for extra in re.findall(r'(?:_extra\([^)]*extra="|compress-ssl\[)(\w+)', path.read_text())
    }
    assert named <= PROJECT["project"]["optional-dependencies"].keys()
    assert {"dashboard", "export", "tensorboard", "voc"} <= named


def test_walks_of_the_architecture_page_name_what_exists() -> None:
    """``path.py:name`` or ``path.py:Class.method``: each is a name in that file; a walk has at most 12 lines."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`((?:cli|pipeline|storage)/[\w/]+\.py):([\w.]+)`", page)
    assert len(named) > 30
    for path, name in named:
        source = (ROOT / path).read_text()
        for part in name.split("."):
            assert re.search(rf"(def|class) {part}\b|^{part}\b", source, re.MULTILINE), f"{path} has no {name}"
    for walk in page.split("### ")[1:]:
        assert len(re.findall(r"^\d+\. ", walk, re.MULTILINE)) <= 12
