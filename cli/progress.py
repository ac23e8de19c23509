"""Progress: a bar with rate and remaining time on a terminal, one line per minute elsewhere."""

from __future__ import annotations

import contextlib
import time
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from compress_ssl.cli.output import echo, is_quiet
from compress_ssl.storage.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from rich.progress import Task
    from rich.text import Text

SECONDS_BETWEEN_LINES = 60.0


class TerminalProgress:
    """Reporter of progress on standard error, silent with --quiet."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)

    @contextlib.contextmanager
    def track(self, title: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
        """Report a piece of work of ``total`` units; yield a function to call with each amount done."""
        if is_quiet():
            yield lambda amount: None
            return
        follow = partial(_bar, self._console) if self._console.is_terminal else _lines
        with follow(printable(title), total, unit) as advance:
            yield advance


@contextlib.contextmanager
def _bar(console: Console, title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.finished_speed or task.speed or 0:,.0f} {unit}/s", style="cyan")

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    progress = Progress(*columns, console=console)
    task = progress.add_task(title, total=total)
    progress.start()
    try:
        yield lambda amount: progress.update(task, advance=amount)
    finally:
        with contextlib.suppress(OSError):  # the terminal was closed
            progress.stop()


@contextlib.contextmanager
def _lines(title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    begun = said = time.monotonic()
    done = 0
    first: tuple[float, int] | None = None

    def advance(amount: int) -> None:
        nonlocal done, said, first
        done += amount
        now = time.monotonic()
        since, before = first = first or (now, done)  # in a resumed run the first report includes what was done before
        if now - said > SECONDS_BETWEEN_LINES:
            said = now
            rate = (done - before) / max(now - since, 1e-9)
            left = f", {timedelta(seconds=round((total - done) / rate))} left" if rate else ""
            echo(f"{title}: {done:,} of {total:,} {unit}, {rate:,.0f} {unit}/s{left}", err=True)

    yield advance
    echo(f"{title}: {done:,} {unit} in {time.monotonic() - begun:,.1f} s", err=True)
