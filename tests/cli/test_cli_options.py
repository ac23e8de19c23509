"""Options come from the settings; what is not known is answered with what is."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

from compress_ssl.cli.main import main
from compress_ssl.cli.options import option_name
from compress_ssl.cli.store import StoreCommands
from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.evaluate.evaluations import EVALUATIONS
from compress_ssl.pipeline.evaluate.settings import EvaluateSettings
from compress_ssl.pipeline.images.pack_settings import PackSettings
from compress_ssl.pipeline.pretrain.settings import PretrainSettings

ROOT = Path(__file__).parents[2]


def unused(model: type[Settings]) -> frozenset[str]:
    """Fields that an evaluation has no use for."""
    return model.UNUSED if issubclass(model, EvaluateSettings) else frozenset()


MODELS: dict[str, type[Settings]] = {
    "pretrain": PretrainSettings,
    "embed": EmbedSettings,
    "estimate": EmbedSettings,
    "distill": DistillSettings,
    "pack": PackSettings,
    "evaluate all": EvaluateSettings,
    **{f"evaluate {name}": evaluation.settings for name, evaluation in EVALUATIONS.items()},
}


def command_named(words: str) -> click.Command:
    """A command, or one of a group."""
    found: click.Command | None = main
    for word in words.split():
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), word)
    assert found is not None
    return found


def parameter(command: str, field: str) -> click.Parameter:
    return next(each for each in command_named(command).params if each.name == field)


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def unwrapped(text: str) -> str:
    """Text without white space: a line of help may also be broken after a hyphen."""
    return re.sub(r"\s+", "", text)


def test_help_is_given(call: Callable[..., Result]) -> None:
    commands = ["", *main.list_commands(click.Context(main)), *MODELS]
    commands += [f"store {name.removesuffix('_')}" for name in StoreCommands.modules]
    for words in dict.fromkeys(commands):
        short, long = (call(*words.split(), flag) for flag in ("-h", "--help"))
        assert short.exit_code == 0
        assert short.stdout.startswith(f"Usage: compress-ssl {words}".rstrip())
        assert "\b" not in short.stdout
        assert r"\b" not in short.stdout
        assert (long.exit_code, long.stdout) == (0, short.stdout)


@pytest.mark.parametrize("command", MODELS)
def test_every_field_of_the_settings_is_a_parameter_with_its_description_and_default(
    call: Callable[..., Result], command: str
) -> None:
    shown = unwrapped(call(*command.split(), "--help").stdout)
    model = MODELS[command]
    for field, info in model.model_fields.items():
        if field in unused(model):
            continue
        given = parameter(command, field)
        if isinstance(given, click.Argument):
            assert info.is_required()
            continue
        assert given.opts == [option_name(field)]
        assert given.required == info.is_required()
        assert info.description is not None
        assert unwrapped(info.description) in shown
        if info.default not in (None, (), False) and not info.is_required():
            default = " ".join(map(str, info.default)) if isinstance(info.default, tuple) else str(info.default)
            assert unwrapped(f"{info.description} [default: {default}]") in shown


def test_no_parameter_is_without_a_field() -> None:
    for command, model in MODELS.items():
        own = {"dry_run"} if command == "embed" else set()
        own |= {"baselines"} if command.startswith("evaluate ") and command != "evaluate all" else set()
        assert {each.name for each in command_named(command).params} == {
            *model.model_fields.keys() - unused(model),
            "as_json",
            *own,
        }


def test_arguments_stand_in_the_order_of_the_settings(call: Callable[..., Result]) -> None:
    assert "distill [OPTIONS] STORE DATA RUN" in call("distill", "--help").stdout
    assert "embed [OPTIONS] DATA STORE" in call("embed", "--help").stdout


def test_module_is_the_command() -> None:
    version = subprocess.check_output([sys.executable, "-m", "compress_ssl", "--version"], cwd=ROOT, text=True)
    assert re.fullmatch(r"compress-ssl, version \d+\.\d+\.\d+\n", version)


WRONG_USE = [
    (("embd",), "There is no command 'embd'. Did you mean 'embed'? Known: embed, "),
    (("store", "inof"), "There is no command 'inof'. Did you mean 'info'? Known: info, "),
    (("evaluate", "liner", "run"), "There is no command 'liner'. Did you mean 'linear'? Known: linear, "),
    (("evaluate", "linear"), "Missing argument 'MODEL'."),
    (("evaluate", "run", "--baseline", "best"), "'random', 'torchvision'"),
    (("embed", "data", "s", "--teahcer", "x"), "No such option '--teahcer'. Did you mean"),
    (("embed", "data", "s"), "Missing option '--teacher'."),
    (("distill", "s", "data"), "Missing argument 'RUN'."),
    (("distill", "s", "d", "r", "--student", "x", "--objective", "fitnets"), "'compress-2q', 'compress-1q', 'reg'"),
    (("embed", "d", "s", "--teacher", "x", "--views", "0"), "--views: input should be greater than or equal to 1"),
    (("embed", "d", "s", "--teacher", "x", "--views", "many"), "'many' is not a valid integer"),
    (("embed", "d", "s", "--teacher", "x", "--policy", "moco"), "Did you mean 'moco-v2'? Known: moco-v2, crop"),
    (("embed", "d", "s", "--teacher", "x", "--split", "a b"), "--split: 'a b' must be NAME, NAME=FOLDER"),
    (
        ("embed", "d", "s", "--teacher", "x", "--resume", "--overwrite"),
        "--resume continues the output, --overwrite deletes it; give one of them.",
    ),
    (("run", "photograph"), "There is no recipe 'photograph'. Did you mean 'photographs'? Known: photographs, "),
    (("run", "missing.toml"), "The recipe 'missing.toml' does not exist; check the path."),
    (("quickstart", "--seed", "-1"), "Invalid value for '--seed'"),
]


def test_wrong_use_is_answered_with_what_is_known_and_exit_code_2(
    call: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, sentence in WRONG_USE:
        result = call(*words)
        assert result.exit_code == 2
        assert sentence in squeezed(result.stderr)
        assert result.stdout == ""
        assert list(tmp_path.iterdir()) == []
