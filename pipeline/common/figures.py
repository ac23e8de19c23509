"""Writing figures to files."""

import io
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text

from compress_ssl.storage.places.durable import write_durably


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically. A ``$`` in a name is a letter, and does not begin a formula."""
    buffer = io.BytesIO()
    with rc_context({"text.parse_math": False}):  # of tick labels; the other texts exist already
        for text in figure.findobj(Text):
            text.set_parse_math(False)
        figure.savefig(buffer, format="png")
    write_durably(path, buffer.getbuffer())
