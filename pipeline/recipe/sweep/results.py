"""Results of a sweep: one row per network, and the mean over seeds of networks that differ in nothing else."""

import csv
import io
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from compress_ssl.pipeline.evaluate.results_table import ScoredImages, Table, image_notes, read_result
from compress_ssl.pipeline.recipe.file import Recipe
from compress_ssl.pipeline.recipe.steps import plan_steps
from compress_ssl.pipeline.recipe.sweep.expand import SEED, Cell
from compress_ssl.pipeline.recipe.up_to_date import inputs_unchanged, is_finished, read_record


class Row(NamedTuple):
    """One network."""

    cell: Cell
    status: str  # ``finished``, ``failed``, or ``not run``
    reason: str  # reason of a failure; empty otherwise
    seconds: float | None
    """Wall-clock time of its training, shared with those trained together; None if it was not trained here."""
    together: int | None  # number of networks trained in the same pass
    scores: dict[str, float]  # Percent, by heading
    images: dict[str, ScoredImages]  # by heading


class Group(NamedTuple):
    """Networks that differ only in their seed."""

    table: str
    values: dict[str, Any]
    networks: int
    finished: int
    failed: int
    scores: dict[str, tuple[float, float | None, int]]
    """By heading: mean, standard deviation (None for one network), and number of scored networks."""

    @property
    def name(self) -> str:
        """Name of the table, with the swept values except the seed."""
        table = "embed (the teacher)" if self.table == "embed" else self.table
        return ", ".join((table, *(f"{key} {value}" for key, value in self.values.items())))


def sweep_rows(recipe: Recipe, cells: Iterable[Cell]) -> list[Row]:
    """Return the rows of an expanded recipe: ``evaluate.models`` first, then networks that are only trained."""
    steps = {step.name: step for step in plan_steps(recipe)}
    known = {cell.name: cell for cell in cells}
    rows = []
    for name in dict.fromkeys((*recipe.evaluate.models, *known)):
        trained = steps.get(name)
        record = (read_record(recipe, name) or {}) if trained else {}
        scores: dict[str, float] = {}
        images: dict[str, ScoredImages] = {}
        reasons = [str(record["failed"])] if "failed" in record else []
        lacking = trained is not None and not is_finished(recipe, trained)
        for step in steps.values():
            if step.stage != "evaluate" or step.name.split(" ", 1)[1] != name:
                continue
            evaluated = read_record(recipe, step.name) or {}
            if is_finished(recipe, step) and inputs_unchanged(step, steps, recipe):
                result = read_result(step.output)
                scores |= result.scores
                images |= result.images
            elif "failed" in evaluated and not reasons:
                reasons.append(str(evaluated["failed"]))
            else:
                lacking = True
        cell = known.get(name, Cell(name, name, {}))
        status = "failed" if reasons else "not run" if lacking else "finished"
        rows.append(Row(cell, status, " ".join(reasons), record.get("seconds"), record.get("together"), scores, images))
    return rows


def group_rows(rows: Iterable[Row]) -> list[Group]:
    """Group the rows that differ only in their seed, in order of appearance."""
    alike: dict[str, list[Row]] = {}
    for row in rows:
        key = [row.cell.table, _but_seed(row.cell.values)]
        alike.setdefault(json.dumps(key, sort_keys=True, default=str), []).append(row)
    groups = []
    for members in alike.values():
        first = members[0].cell
        scores: dict[str, tuple[float, float | None, int]] = {}
        for heading in _headings(row.scores for row in members):
            found = [row.scores[heading] for row in members if heading in row.scores]
            deviation = statistics.stdev(found) if len(found) > 1 else None
            scores[heading] = (statistics.fmean(found), deviation, len(found))
        counts = Counter(row.status for row in members)
        values = _but_seed(first.values)
        groups.append(Group(first.table, values, len(members), counts["finished"], counts["failed"], scores))
    return groups


def sweep_table(rows: Sequence[Row], groups: Sequence[Group]) -> Table:
    """Return a table of mean ± standard deviation in percent; groups that need no scores are left out."""
    notes = image_notes([(row.cell.name, row.images) for row in rows])
    headings = _headings(group.scores for group in groups)
    cells = []
    for group in groups:
        runs = str(group.networks)
        if group.finished < group.networks:
            runs = f"{group.finished} of {runs}" + (f", {group.failed} failed" if group.failed else "")
        elif not group.scores:
            continue
        cells.append((group.name, runs, *(_cell(group.scores.get(heading)) for heading in headings)))
    return Table(("networks", "runs", *headings), cells, notes)


def as_csv(rows: Sequence[Row]) -> str:
    """Return one CSV line per network; scores are in percent."""
    fields = list(dict.fromkeys(key for row in rows for key in row.cell.values))
    headings = _headings(row.scores for row in rows)
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["name", "table", *fields, "status", "reason", "seconds", "together", *headings, "images"])
    for row in rows:
        values = [row.cell.values.get(field, "") for field in fields]
        plain = [json.dumps(each, sort_keys=True) if isinstance(each, dict | list) else each for each in values]
        scores = [row.scores.get(heading, "") for heading in headings]
        images = " ".join(image_notes([(row.cell.name, row.images)]))
        writer.writerow(
            [row.cell.name, row.cell.table, *plain, row.status, row.reason, row.seconds, row.together, *scores, images]
        )
    return written.getvalue()


def as_record(rows: Sequence[Row], groups: Sequence[Group]) -> dict[str, Any]:
    """Return the rows and groups as JSON values."""
    statistic = ("mean", "standard_deviation", "networks")
    networks = [
        {**row.cell._asdict(), **row._asdict(), "images": {key: images.counts() for key, images in row.images.items()}}
        for row in rows
    ]
    return {
        "networks": [{key: value for key, value in network.items() if key != "cell"} for network in networks],
        "groups": [
            group._asdict()
            | {"scores": {key: dict(zip(statistic, score, strict=True)) for key, score in group.scores.items()}}
            for group in groups
        ],
    }


def _but_seed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != SEED}


def _headings(scores: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(heading for each in scores for heading in each))


def _cell(score: tuple[float, float | None, int] | None) -> str:
    if score is None:
        return ""
    mean, deviation, _ = score
    return f"{mean:.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")
