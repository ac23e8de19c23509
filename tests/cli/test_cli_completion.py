"""Shells complete commands, options and choices, at once."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "compress_ssl"]


def environment_of(line: str) -> dict[str, str]:
    """What the shell sets when the word at the end of a line is to be completed."""
    asked = {"_COMPRESS_SSL_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    return {**os.environ, "PYTHONPATH": str(ROOT), **asked}


def completions(line: str) -> list[str]:
    """What the word at the end of a line can become."""
    answer = subprocess.run(COMMAND, env=environment_of(line), capture_output=True, text=True, check=True)
    assert answer.stderr == ""
    return [each.partition(",")[2] for each in answer.stdout.splitlines()]


COMPLETIONS = [
    ("compress-ssl di", ["distill"]),
    ("compress-ssl store ver", ["verify"]),
    ("compress-ssl distill --obj", ["--objective"]),
    ("compress-ssl distill --objective c", ["compress-2q", "compress-1q", "crd", "cc"]),
    ("compress-ssl chain embed --views 2 dis", ["distill"]),
    ("compress-ssl run image", ["imagenet", "imagenette", "image"]),  # the last one says: or a file
    ("compress-ssl distill te", ["te"]),  # the shell completes it as a path
    ("compress-ssl completion ", ["bash", "zsh", "fish"]),
]


def test_word_is_completed() -> None:
    for line, expected in COMPLETIONS:
        assert completions(line) == expected


def test_completion_imports_nothing_heavy() -> None:
    answer = subprocess.run(
        COMMAND, env=environment_of("compress-ssl ") | {"PYTHONPROFILEIMPORTTIME": "1"}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "compress_ssl.cli.main" in imported
    assert not {"torch", "zarr", "dask"} & imported


def test_script_is_one_that_the_shell_reads(call: Callable[..., Result]) -> None:
    for shell in ["bash", "zsh", "fish"]:
        script = call("completion", shell).stdout
        assert "_COMPRESS_SSL_COMPLETE" in script
        if shutil.which(shell) is not None:
            subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_bash_knows_the_command_once_it_has_read_the_script(call: Callable[..., Result]) -> None:
    script = call("completion", "bash").stdout
    answer = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\ncomplete -p compress-ssl"], capture_output=True, text=True, check=True
    )
    assert "-F _compress_ssl_completion compress-ssl" in answer.stdout
