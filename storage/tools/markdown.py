"""Markdown elements of the cards of stores and of exported networks."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def section(title: str, body: str) -> str:
    """Return a section; an empty string if its body is empty."""
    return f"## {title}\n\n{body}" if body else ""


def facts(values: Mapping[str, Any]) -> str:
    """Return a table of names and values."""
    rows = [(name.replace("_", " "), value) for name, value in values.items()]
    return table(("", ""), rows) if rows else ""


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table."""
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def python(code: str) -> str:
    """Return a block of Python code."""
    return f"```python\n{code}\n```"


def _cell(value: Any) -> str:
    """Return text that stays in its cell; a mapping as ``name value``, without values that are off."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(inner)}" for key, inner in value.items() if inner)
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value)
    return text.replace("|", "\\|").replace("\n", " ")
