"""One run of the acceptance parts: where it writes, how large it is, and the lines that it reports."""

import contextlib
import json
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

RESULTS = "results.jsonl"
MARKS = {True: "ok  ", False: "FAIL", None: "    "}


@dataclass(frozen=True)
class Run:
    """A part of a run; every line that it reports is printed, and added to the folder's ``results.jsonl``."""

    folder: Path
    toy: bool  # toy sizes on the CPU: tries the parts themselves
    part: str = ""

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """The device that is accepted."""
        return "cpu" if self.toy else "cuda"

    @property
    def threads(self) -> int:
        """Threads of what is not a stage."""
        return len(os.sched_getaffinity(0))

    def check(self, name: str, ok: bool, **facts: Any) -> None:
        """Report whether something holds."""
        self._report(name, bool(ok), facts)

    def measured(self, name: str, **facts: Any) -> None:
        """Report figures that have no goal."""
        self._report(name, None, facts)

    def goal(self, name: str, value: float, *, least: float = -float("inf"), most: float = float("inf")) -> None:
        """Check a ratio against its goal; toy sizes only measure it."""
        bounds = {key: bound for key, bound in (("least", least), ("most", most)) if abs(bound) < float("inf")}
        self._report(name, None if self.toy else least <= value <= most, {"value": value, **bounds})

    @contextlib.contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Report an exception inside the block as a failed check, and go on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            frame = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {error}"[:600]
            self.check(name, False, error=reason, at=f"{Path(frame.filename).name}:{frame.lineno}")

    def lines(self) -> list[dict[str, Any]]:
        """Return all lines reported in this folder."""
        file = self.folder / RESULTS
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []

    def _report(self, name: str, ok: bool | None, facts: dict[str, Any]) -> None:
        line = {"part": self.part, "check": name, "ok": ok, **facts}
        with (self.folder / RESULTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=float) + "\n")
        shown = (f"{key}={value:.5g}" if isinstance(value, float) else f"{key}={value}" for key, value in facts.items())
        print(MARKS[ok], f"[{self.part}]", name, *shown, flush=True)
