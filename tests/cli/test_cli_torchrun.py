"""What the command line does when it is one of several processes."""

import pytest

from cli.main import main
from cli.output import is_quiet, print_result

ENVIRONMENT = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**ENVIRONMENT, "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("second_of_two")
@pytest.mark.parametrize(
    "words", [["embed", "photographs", "teacher.zarr", "--teacher", "random/resnet18"], ["doctor"]]
)
def test_what_is_the_work_of_one_process_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words, prog_name="compress-ssl")
    assert ended.value.code == 2
    assert f"'{words[0]}' was started in 2 processes, and is the work of one; start it without torchrun" in (
        capsys.readouterr().err
    )


@pytest.mark.usefixtures("second_of_two")
def test_only_the_main_process_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    assert is_quiet()
    print_result({"model": "here"}, as_json=True, show=lambda: None)
    assert capsys.readouterr().out == ""
