"""Writing figures to files."""

import io
from pathlib import Path

from matplotlib.figure import Figure

from compress_ssl.storage.places.durable import write_durably


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_durably(path, buffer.getbuffer())
