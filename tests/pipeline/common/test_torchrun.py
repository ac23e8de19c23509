"""torchrun's variables: a place among processes, or one sentence."""

import pytest
from click.testing import CliRunner

from compress_ssl.cli.main import main
from compress_ssl.pipeline.common.torchrun import TorchrunEnv, torchrun_env

SET = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_PORT": "29500"}


def test_variables_give_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**SET, "MASTER_ADDR": "here"}.items():
        monkeypatch.setenv(name, value)
    assert torchrun_env() == TorchrunEnv(1, 2, 0, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("WORLD_SIZE", value) for value in ("two", "-1", "1e3", "9" * 5000, "²", "2.0")),
        *(("RANK", value) for value in ("x", "2", "99999999999")),
        *(("MASTER_PORT", value) for value in ("ssh", "0", "65536", "-5")),
    ],
)
def test_value_that_cannot_be_is_one_sentence(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each, given in {**SET, "MASTER_ADDR": "here", name: value}.items():
        monkeypatch.setenv(each, given)
    result = CliRunner().invoke(main, ["store", "list"])
    assert result.exit_code == 2
    (sentence,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
    assert name in sentence
    assert sentence == result.stderr.splitlines()[-1]
