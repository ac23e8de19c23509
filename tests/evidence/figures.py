"""Draw the figures of docs/results.md from the JSON beside it: ``python -m tests.evidence.figures``."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compress_ssl.pipeline.common.figures import write_figure

DOCS = Path(__file__).parents[2] / "docs"
RESULTS, FIGURES = DOCS / "results", DOCS / "figures"

STORES = {"views": "Imagenette", "views-cifar10": "CIFAR-10"}
"""By the results' name, the dataset of a sweep over stored views."""

LINES = {"stored": ("stored views", "o-"), "mixed": ("stored views, mixup", "s--")}


def groups_of(name: str) -> list[dict[str, Any]]:
    """Return the networks of a sweep's results that differ in their seed alone, as one group each."""
    found: list[dict[str, Any]] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["groups"]
    return found


def draw_views(axes: Axes, groups: Iterable[Mapping[str, Any]], title: str) -> None:
    """Draw NN over the number of stored views, with a band for the live teacher and one for the cached mode."""
    points: dict[str, list[tuple[int, float, float]]] = {table: [] for table in LINES}
    for group in groups:
        score = group["scores"]["NN"]
        mean, deviation = score["mean"], score["standard_deviation"] or 0.0
        if group["table"] in points:
            points[group["table"]].append((group["values"]["views"], mean, deviation))
        elif group["table"] == "cached":
            band(axes, mean, deviation, "the published code's cached mode", "tab:red")
    *points["stored"], (_, mean, deviation) = sorted(points["stored"])
    band(axes, mean, deviation, "live teacher", "tab:green")
    for table, (label, style) in LINES.items():
        if points[table]:
            views, means, deviations = zip(*sorted(points[table]), strict=True)
            axes.errorbar(views, means, deviations, fmt=style, capsize=3, label=label)
    ticks = sorted({views for line in points.values() for views, _, _ in line})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(each) for each in ticks], minor=False)
    axes.minorticks_off()
    axes.set(title=title, xlabel="views in the store", ylabel="NN, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def band(axes: Axes, mean: float, deviation: float, label: str, colour: str) -> None:
    """Draw a score that has no number of views: a line, and one standard deviation to either side."""
    axes.axhline(mean, color=colour, linewidth=1, label=label)
    axes.axhspan(mean - deviation, mean + deviation, color=colour, alpha=0.15)


def draw_costs(axes: Axes, costs: Mapping[str, Any]) -> None:
    """Draw the CPU seconds of all students over their number, with a live teacher and with stores."""
    students = range(1, costs["students"] + 1)
    for name, cost in costs["ways"].items():
        axes.plot(students, [(cost["once"] + number * cost["each"]) / 60 for number in students], label=name)
    axes.set(xlabel="students", ylabel="CPU minutes", title=costs["title"])
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def main() -> None:
    """Draw what has results."""
    if known := [name for name in STORES if (RESULTS / f"{name}.json").is_file()]:
        figure = Figure(figsize=(5.5 * len(known), 4.2), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(known), squeeze=False)[0], known, strict=True):
            draw_views(axes, groups_of(name), STORES[name])
        write_figure(figure, FIGURES / "views.png")
    if (costs := RESULTS / "costs.json").is_file():
        figure = Figure(figsize=(5.5, 4.2), layout="constrained")
        draw_costs(figure.subplots(), json.loads(costs.read_text(encoding="utf-8")))
        write_figure(figure, FIGURES / "costs.png")


if __name__ == "__main__":
    main()
