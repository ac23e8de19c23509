"""What the command line does when it is one of several processes."""

import pytest

from compress_ssl.cli.main import main
from compress_ssl.cli.output import is_quiet, print_result

ENVIRONMENT = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.fixture(params=["0", "1"])
def rank(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Number of this process, of two."""
    for name, value in {**ENVIRONMENT, "RANK": request.param, "LOCAL_RANK": request.param}.items():
        monkeypatch.setenv(name, value)
    return str(request.param)


@pytest.mark.parametrize(
    "words", [["embed", "photographs", "teacher.zarr", "--teacher", "random/resnet18"], ["doctor"]]
)
def test_what_is_the_work_of_one_process_is_refused_and_said_once(
    words: list[str], rank: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words, prog_name="compress-ssl")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    sentence = f"'{words[0]}' was started in 2 processes, but runs in one; start it without torchrun"
    assert sentence in said if rank == "0" else said == ""


def test_only_the_main_process_speaks(rank: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert is_quiet() is (rank == "1")
    print_result({"model": "here"}, as_json=True, show=lambda: None)
    assert ("here" in capsys.readouterr().out) is (rank == "0")
