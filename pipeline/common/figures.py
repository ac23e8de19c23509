"""Writing figures to files."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from compress_ssl.storage.places.durable import write_durably

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_durably(path, buffer.getbuffer())
