"""Draw the figures of docs/results.md from the JSON beside it: ``python -m tests.evidence.figures``."""

import json
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compress_ssl.pipeline.common.figures import write_figure

DOCS = Path(__file__).parents[2] / "docs"
RESULTS, FIGURES = DOCS / "results", DOCS / "figures"


class Store(NamedTuple):
    """The store of a sweep over stored views."""

    dataset: str
    milliseconds: float  # of a core, to render and embed a view


STORES = {"views": Store("Imagenette", 11.7)}
"""By the results' name. Where a store was made in several calls, its milliseconds are of another one, made in one."""

LINES = {"stored": ("stored views", "o-"), "mixed": ("stored views, mixup", "s--")}


def groups_of(name: str) -> list[dict[str, Any]]:
    """Return the networks of a sweep's results that differ in their seed alone, as one group each."""
    found: list[dict[str, Any]] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["groups"]
    return found


def draw_views(axes: Axes, name: str) -> None:
    """Draw NN over the number of stored views, with a band for the live teacher and one for the cached mode."""
    points: dict[str, list[tuple[int, float, float]]] = {table: [] for table in LINES}
    mixed = f"{name}-mixed"
    for group in groups_of(name) + (groups_of(mixed) if (RESULTS / f"{mixed}.json").is_file() else []):
        score = group["scores"]["NN"]
        centre, deviation = score["mean"], score["standard_deviation"] or 0.0
        if group["table"] in points:
            points[group["table"]].append((group["values"]["views"], centre, deviation))
        elif group["table"] == "cached":
            band(axes, centre, deviation, "the published code's cached mode", "tab:red")
    *points["stored"], (_, centre, deviation) = sorted(points["stored"])
    band(axes, centre, deviation, "live teacher", "tab:green")
    for table, (label, style) in LINES.items():
        if points[table]:
            views, means, deviations = zip(*sorted(points[table]), strict=True)
            axes.errorbar(views, means, deviations, fmt=style, capsize=3, label=label)
    ticks = sorted({views for line in points.values() for views, _, _ in line})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(each) for each in ticks], minor=False)
    axes.minorticks_off()
    axes.set(title=STORES[name].dataset, xlabel="views in the store", ylabel="NN, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def band(axes: Axes, centre: float, deviation: float, label: str, colour: str) -> None:
    """Draw a score that has no number of views: a line, and one standard deviation to either side."""
    axes.axhline(centre, color=colour, linewidth=1, label=label)
    axes.axhspan(centre - deviation, centre + deviation, color=colour, alpha=0.15)


def draw_costs(axes: Axes, name: str) -> None:
    """Draw the minutes of one core for all students over their number, with a live teacher and with stores.

    A live teacher renders and runs a view of every image in every epoch of each student.
    """
    networks = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["networks"]
    stored = [network for network in networks if network["table"] == "stored" and network["seconds"]]
    epochs = max(network["values"]["views"] for network in stored)  # as many views as the largest store has
    view = stored[0]["images"]["NN"]["train_images"] * STORES[name].milliseconds / 1000
    student = median(network["seconds"] / network["together"] for network in stored)
    students = range(1, 11)
    ways = {"live teacher": (0.0, student + epochs * view)}
    ways |= {f"store of {views} views": ((views + 1) * view, student) for views in (4, 16, 50)}
    for label, (once, each) in ways.items():
        axes.plot(students, [(once + number * each) / 60 for number in students], label=label)
    axes.set(xlabel="students", ylabel="minutes of one core", title=STORES[name].dataset)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


DRAWN = {"views": draw_views, "costs": draw_costs}


def main() -> None:
    """Draw every figure."""
    for file, draw in DRAWN.items():
        figure = Figure(figsize=(5.5 * len(STORES), 4.2), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(STORES), squeeze=False)[0], STORES, strict=True):
            draw(axes, name)
        write_figure(figure, FIGURES / f"{file}.png")


if __name__ == "__main__":
    main()
