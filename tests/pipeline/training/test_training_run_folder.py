"""A run's folder that is a link, a colleague's, or beside one of the user's: all of it is replaced, or nothing."""

from functools import partial
from pathlib import Path

import pytest

from tests.pipeline.training.tiny_loop import run_loop
from tests.processes import Forked, run_as_nobody


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("locked", [".", "best", "best/deep"])
def test_run_that_may_not_be_deleted_stays_as_it_is(shared_folder: Path, locked: str) -> None:
    run = shared_folder / "run"
    run_loop(run)
    (run / "best" / "deep").mkdir(parents=True)
    (run / "best" / "deep" / "file").write_text("a colleague's")
    for folder in (run, run / "best", run / "best" / "deep"):
        folder.chmod(0o777)
    (run / locked).chmod(0o555)
    before = tree(shared_folder)
    process = Forked(run_as_nobody, partial(run_loop, overwrite=True), run)
    assert process.wait() == 2, process.errors
    assert f"you may not write to the folder '{(run / locked).resolve()}'; give another place" in process.output
    assert tree(shared_folder) == before
    (run / locked).chmod(0o755)


@pytest.mark.parametrize("kind", ["a run", "nothing yet"])
def test_run_folder_that_is_a_link_works_and_stays_a_link(tmp_path: Path, kind: str) -> None:
    real, link = tmp_path / "disk" / "real", tmp_path / "run"
    real.parent.mkdir()
    link.symlink_to(real)
    if kind == "a run":
        run_loop(real)
        (real / "old").write_text("of the first run")
    run_loop(link, overwrite=True)
    assert link.is_symlink()
    assert (real / "network").exists()
    assert not (real / "old").exists()
    assert [path.name for path in real.parent.iterdir()] == ["real"]


def test_overwriting_touches_nothing_beside_the_run_but_leftovers_of_its_own(tmp_path: Path) -> None:
    run_loop(tmp_path / "run")
    users = [tmp_path / name for name in ("run.deleting", "run.x.deleting", "runs.0123.deleting")]
    leftover = tmp_path / f"run.{32 * 'a'}.deleting"
    for folder in (*users, leftover):
        folder.mkdir()
        (folder / "file").write_text("kept")
    run_loop(tmp_path / "run", overwrite=True)
    assert all((folder / "file").exists() for folder in users)
    assert not leftover.exists()
