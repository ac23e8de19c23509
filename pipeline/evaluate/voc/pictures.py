"""Pictures of a detector: its training curve, and boxes on some test images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from compress_ssl.pipeline.common.figures import write_figure
from compress_ssl.pipeline.common.rows import evenly_spaced
from compress_ssl.pipeline.common.run_files import METRICS_FILE
from compress_ssl.pipeline.evaluate.voc.average_precision import Detections
from compress_ssl.pipeline.evaluate.voc.images import AnnotatedImages
from compress_ssl.pipeline.training.metrics import MAX_METRICS_BYTES
from compress_ssl.storage.typed_files import read_bounded
from compress_ssl.storage.typed_json import parse_json

DRAWN_FROM_SCORE = 0.5  # minimum score of drawn detections

COLUMNS = 4


def draw_curve(run: Path, picture: Path, note: str) -> None:
    """Draw the losses of a run, and its average precision on the test images where it was scored during training."""
    path = run / METRICS_FILE
    lines = [parse_json(path, line, dict[str, float]) for line in read_bounded(path, MAX_METRICS_BYTES).splitlines()]
    steps = max(line["step"] for line in lines)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    left = figure.subplots()
    for name in ("loss", "loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"):
        points = [(line["epoch"] + line["step"] / steps, line[name]) for line in lines if name in line]
        left.plot(*zip(*points, strict=True), label=name, linewidth=2 if name == "loss" else 1)
    left.set(xlabel="epoch", ylabel="loss", ylim=(0, None), title=note)
    left.title.set_fontsize("small")
    scored = [line for line in lines if "voc_ap_percent" in line]
    if scored:
        right = left.twinx()
        points = [(line["epoch"] + line["step"] / steps, line["voc_ap_percent"]) for line in scored]
        right.plot(*zip(*points, strict=True), "ko-", label="AP on the test images")
        right.set(ylabel="VOC AP, %", ylim=(0, 100))
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    write_figure(figure, picture)


def draw_boxes(
    images: AnnotatedImages, detections: Sequence[Detections], names: Sequence[str], count: int, path: Path, note: str
) -> None:
    """Draw objects (dotted) and detections (solid) on ``count`` evenly spaced images, coloured by class."""
    chosen = evenly_spaced(np.arange(len(images.rows)), count, endpoint=True)
    rows = -(-len(chosen) // COLUMNS)
    figure = Figure(figsize=(3.2 * COLUMNS, 2.6 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for panel in panels:
        panel.set_axis_off()
    colours = [colormaps["tab10" if len(names) <= 10 else "tab20"](label % 20) for label in range(len(names))]
    shown = (each for batch in images.read(chosen, 1, 1) for each in batch)
    for panel, row, (image, truth) in zip(panels, chosen, shown, strict=False):
        panel.imshow(image.permute(1, 2, 0).numpy(), interpolation="antialiased")
        for box, label in zip(truth.boxes, truth.labels, strict=True):
            _draw(panel, box, colours[label], style=":")
        for box, label, score in zip(*detections[row], strict=True):
            if score >= DRAWN_FROM_SCORE:
                _draw(panel, box, colours[label], style="-")
                panel.text(box[0], box[1], f"{score:.2f}", color="white", backgroundcolor=colours[label], fontsize=4)
    patches = [Rectangle((0, 0), 1, 1, color=colour) for colour in colours[:20]]
    figure.legend(patches, names[:20], loc="outside lower center", ncols=10, fontsize="small")
    figure.suptitle(f"{note}. Dotted: annotated; solid: found, score at least {DRAWN_FROM_SCORE}", fontsize="small")
    write_figure(figure, path)


def _draw(panel: Axes, box: npt.NDArray[np.floating], colour: tuple[float, ...], style: str) -> None:
    xmin, ymin, xmax, ymax = box
    panel.add_patch(
        Rectangle((xmin - 1, ymin - 1), xmax - xmin + 1, ymax - ymin + 1, fill=False, edgecolor=colour, linestyle=style)
    )
