"""A run whose lease another process has taken, as after a suspension: nothing more is written to it."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor

from compress_ssl.pipeline.training import loop
from compress_ssl.pipeline.training.run_folder import run_leases
from compress_ssl.storage.errors import StoreBusyError
from tests.pipeline.training.tiny_loop import batches, run_loop
from tests.processes import Forked


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir()} if run.exists() else {}


@pytest.mark.parametrize("at", [(0, 0), (1, 2), (2, 3)])
@pytest.mark.parametrize("looks", [True, False], ids=["before the next step", "before the next file"])
def test_lost_lease_ends_a_training_before_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: tuple[int, int], looks: bool
) -> None:
    monkeypatch.setattr(loop, "LOOK_SECONDS", -1 if looks else 1000)
    run, then, steps = tmp_path / "run", {}, []

    def batches_of_a_suspended_writer(epoch: int, first_step: int) -> Iterator[Tensor]:
        for step, batch in enumerate(batches(epoch, first_step), first_step):
            steps.append((epoch, step))
            if (epoch, step) == at:
                taken_by_another(run)
                then.update(contents(run))
            yield batch

    with run_leases([run]), pytest.raises(StoreBusyError, match=r"run' was taken over by another writer"):
        run_loop(run, batches=batches_of_a_suspended_writer)
    assert contents(run) == then
    assert steps[-1] == (at if looks else (at[0], 3))


def train_while_nothing_can_be_opened(run: Path) -> None:
    loop.LOOK_SECONDS = -1
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def batches_while_nothing_can_be_opened(epoch: int, first_step: int) -> Iterator[Tensor]:
        for step, batch in enumerate(batches(epoch, first_step), first_step):
            if step == 1:  # nothing is written after it
                resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            try:
                yield batch
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    with run_leases([run]):
        run_loop(run, batches=batches_while_nothing_can_be_opened)


def test_lease_that_cannot_be_read_for_a_moment_ends_no_training(tmp_path: Path) -> None:
    process = Forked(train_while_nothing_can_be_opened, tmp_path / "run")  # the limit is of a whole process
    assert process.wait() == 0, process.errors
    assert (tmp_path / "run" / "network").is_file()


def taken_by_another(run: Path) -> None:
    lease = run.with_name(f"{run.name}.lease")
    lease.write_text(lease.read_text().replace('"holder":"', '"holder":"another '))


@pytest.mark.parametrize("how", [{"resume": True}, {"overwrite": True}], ids=["resume", "overwrite"])
def test_lost_lease_ends_a_run_before_it_is_opened(tmp_path: Path, how: dict[str, bool]) -> None:
    run = tmp_path / "run"
    run_loop(run)
    (run / f"metrics.jsonl.{32 * 'a'}.partial").write_text("half of what another writes")
    before = contents(run)
    with run_leases([run]):
        taken_by_another(run)
        with pytest.raises(StoreBusyError):
            run_loop(run, **how)
    assert contents(run) == before
