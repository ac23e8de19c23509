"""A figure for each swept field: scores over its values, with error bars over seeds."""

import itertools
import math
import re
from typing import Any

import matplotlib

matplotlib.use("Agg")

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from compress_ssl.pipeline.common.figures import write_figure
from compress_ssl.pipeline.recipe.sweep.expand import SEED
from compress_ssl.pipeline.recipe.sweep.results import Group

WIDTH, HEIGHT, PER_ROW = 4.2, 3.4, 3  # size of a panel in inches, and panels per row
MARKS = cycler(marker=["o", "s", "^", "x"]) * cycler(color=matplotlib.color_sequences["tab10"])

Point = tuple[Any, float, float]
"""Value of the field, with the mean score of a group in percent, and its standard deviation: NaN of one seed."""


def draw_figures(groups: Sequence[Group], folder: Path) -> list[Path]:
    """Write ``FIELD.png`` for every swept field except the seed, if two of its values have scores; return the paths.

    One panel per score. Networks that differ only in the field form a line, or points if its values are not numbers.
    """
    fields = dict.fromkeys(key for group in groups for key in group.values if key != SEED)
    written = []
    for field in fields:
        swept = [group for group in groups if field in group.values and group.scores]
        if len({str(group.values[field]) for group in swept}) > 1:
            path = folder / f"{field}.png"
            write_figure(_figure(field, swept), path)
            written.append(path)
    return written


def _figure(field: str, swept: Sequence[Group]) -> Figure:
    headings = list(dict.fromkeys(heading for group in swept for heading in group.scores))
    across = min(PER_ROW, len(headings))
    down = -(-len(headings) // across)
    figure = Figure(figsize=(WIDTH * across, HEIGHT * down + 0.6), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
    numbers = all(isinstance(group.values[field], int | float) for group in swept)
    numbers = numbers and not any(isinstance(group.values[field], bool) for group in swept)
    lines = {heading: _lines(field, heading, swept) for heading in headings}
    names = dict.fromkeys(name for each in lines.values() for name in each)
    styles = {
        name: {"label": name, "markersize": 4, "capsize": 3, **mark}
        for name, mark in zip(names, itertools.cycle(MARKS), strict=False)
    }
    for axis, heading in zip(axes.flat, headings, strict=False):
        (_draw_numbers if numbers else _draw_names)(axis, lines[heading], styles)
        axis.set_title(heading)
        axis.set_xlabel(field.replace("_", " "))
        axis.set_ylabel("percent")
    for axis in list(axes.flat)[len(headings) :]:
        axis.remove()
    labelled = [axis.get_legend_handles_labels() for axis in figure.axes]
    handles = {label: handle for each in labelled for handle, label in zip(*each, strict=True)}
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=3, fontsize="small", frameon=False
    )
    return figure


def _lines(field: str, heading: str, swept: Iterable[Group]) -> dict[str, list[Point]]:
    """Return the points of each line, by the name of the other settings."""
    lines: dict[str, list[Point]] = {}
    for group in swept:
        if heading in group.scores:
            mean, deviation, _ = group.scores[heading]
            others = ", ".join(f"{key} {value}" for key, value in group.values.items() if key != field)
            name = f"{group.table}, {others}" if others else group.table
            lines.setdefault(name, []).append((group.values[field], mean, math.nan if deviation is None else deviation))
    return lines


def _draw_numbers(axis: Axes, lines: Mapping[str, Sequence[Point]], styles: Mapping[str, Mapping[str, Any]]) -> None:
    for name, points in lines.items():
        values, means, deviations = zip(*sorted(points), strict=True)
        axis.errorbar(values, means, yerr=deviations, **styles[name])
    every = sorted({value for points in lines.values() for value, *_ in points})
    if every[0] > 0 and every[-1] >= 8 * every[0]:
        axis.set_xscale("log")
        axis.set_xticks(every, [f"{value:g}" for value in every], rotation=45 if len(every) > 5 else 0)
        axis.minorticks_off()


def _draw_names(axis: Axes, lines: Mapping[str, Sequence[Point]], styles: Mapping[str, Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(str(value) for points in lines.values() for value, *_ in points))
    for number, (name, points) in enumerate(lines.items()):
        aside = 0.5 * ((number + 0.5) / len(lines) - 0.5)
        values, means, deviations = zip(*points, strict=True)
        places = [names.index(str(value)) + aside for value in values]
        axis.errorbar(places, means, yerr=deviations, linestyle="none", **styles[name])
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.set_xticks(range(len(names)), [re.sub(r"^.*/", "", name) for name in names], rotation=30, ha="right")
