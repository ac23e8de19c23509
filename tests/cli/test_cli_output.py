"""The result goes to standard output, as JSON where asked for; all else to standard error, or nowhere."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from click.testing import Result

from compress_ssl.cli.main import main
from compress_ssl.storage import describe, open_store
from tests.processes import shown_on_terminal, start_command

Call = Callable[..., Result]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group) and not command.chain:
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


PRINTING = {words: command for words, command in commands(main) if words != ("completion",)}


def test_command_that_prints_a_result_can_print_json() -> None:
    for words, command in PRINTING.items():
        assert any("--json" in parameter.opts for parameter in command.params), words


def json_of(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_embed_prints_as_json_what_store_info_does(call: Call, workplace: Path, embed_options: tuple[str, ...]) -> None:
    answer = json_of(call("embed", "data", "second.zarr", *embed_options, "--json"))
    assert answer == json_of(call("store", "info", "second.zarr", "--json"))
    assert answer == json.loads(json.dumps(describe(open_store("second.zarr"))))


def test_trainings_print_as_json_where_the_network_is(
    call: Call, workplace: Path, distill_options: tuple[str, ...]
) -> None:
    student = json_of(call("distill", "teacher.zarr", "data", "second", *distill_options, "--json"))
    assert student == {"model": "second/model.safetensors"}
    options = ("--arch", "conv4-16", "--epochs", "1", "--batch-size", "8", "--size", "16", "--resize", "16")
    assert json_of(call("pretrain", "data", "big", *options, "--json")) == {"model": "big/model.safetensors"}


def test_evaluate_prints_as_json_what_it_writes(call: Call, workplace: Path) -> None:
    (answer,) = json_of(call("evaluate", "teacher.zarr", "--json"))
    assert json.loads(Path(answer.pop("path")).read_bytes()) == answer


def test_verify_prints_as_json_what_is_damaged_and_fails(call: Call, workplace: Path) -> None:
    assert json_of(call("store", "verify", "teacher.zarr", "--json"))["ok"] is True
    (workplace / "teacher.zarr" / "train" / "label" / "c" / "0").unlink()
    result = call("store", "verify", "teacher.zarr", "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["ok"] is False
    assert "teacher.zarr/train/label/c/0' is missing" in answer["damaged"][0]


def test_error_with_json_leaves_standard_output_empty(call: Call, workplace: Path) -> None:
    result = call("store", "info", "nowhere", "--json")
    assert (result.exit_code, result.stdout) == (2, "")


def test_quiet_command_prints_its_result_alone(call: Call, workplace: Path, embed_options: tuple[str, ...]) -> None:
    result = call("--quiet", "embed", "data", "second.zarr", *embed_options, "--threads", "1")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 2
    shown = call("-q", "evaluate", "student", "--data", "data", "--threads", "1")
    assert shown.stderr == ""
    assert "conv4-16" in shown.stdout


def test_quiet_command_still_says_its_error(call: Call, workplace: Path) -> None:
    result = call("-q", "store", "info", "nowhere")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: 'nowhere' does not exist")


def test_quiet_run_prints_its_table_alone(call: Call, workplace: Path) -> None:
    """The quiet run is a process of its own, since logging is set up once per process."""
    (workplace / "recipe.toml").write_text(
        'folder = "out"\ndata = "data"\n[settings]\nsize = 16\nresize = 16\nthreads = 1\n'
        '[evaluate]\nmodels = ["random/conv4-16"]\n'
    )
    quiet = start_command("-q", "run", "recipe.toml")
    assert quiet.wait() == 0, quiet.errors
    loud = call("run", "recipe.toml", "--force")
    assert quiet.errors == ""
    assert quiet.output == loud.stdout
    assert loud.stderr.splitlines()[:2] == [
        "To do: evaluate knn random/conv4-16.",
        "run evaluate knn random/conv4-16: forced",
    ]


COLOUR = re.compile(r"\x1b\[[\d;]*\b(3\d|4\d|9\d|10\d)[\d;]*m")


def test_no_colour_is_written_where_the_user_wants_none(workplace: Path) -> None:
    assert COLOUR.search(shown_on_terminal("store", "copy", "teacher.zarr", "copy.zarr", TERM="xterm-256color"))
    words = ("evaluate", "student", "--data", "data", "--threads", "1")
    assert not COLOUR.search(shown_on_terminal(*words, TERM="xterm-256color", NO_COLOR="1"))
