"""Markdown elements of the cards of stores and of exported networks. Names in them are from anybody."""

import json
import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from compress_ssl.storage.printable import printable


def text(value: object) -> str:
    """Return a text that Markdown and HTML show as it is: no link, no tag, no end of a line or cell."""
    return re.sub(r"[\\`*<|]|(?<=\])[(\[]", r"\\\g<0>", printable(value))


def code(value: object) -> str:
    """Return a text as code within a line."""
    shown = printable(value)
    marks = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{marks}{shown}{marks}" if len(marks) == 1 else f"{marks} {shown} {marks}"


def literal(value: str) -> str:
    """Return a text as a literal of Python."""
    return repr(value) if "'" in value or '"' in value else f'"{repr(value)[1:-1]}"'


def variable(name: str, otherwise: str) -> str:
    """Return a name as a variable of Python; another if it cannot be one."""
    return name if name.isidentifier() and name.isascii() and not keyword.iskeyword(name) else otherwise


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
        return ", ".join(f"{text(key)} {_cell(inner)}" for key, inner in value.items() if inner)
    return text(value if isinstance(value, str) else "" if value is None else json.dumps(value))
