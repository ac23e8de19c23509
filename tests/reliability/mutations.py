"""Ways in which a file can be damaged, or made up by an enemy: of its bytes, of its JSON, of what it is on the disk."""

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CONTROL = "\x1b]0;a\x07\u202e\x00\r\n`|<script>${}"
DEEP = "[" * 3000 + "]" * 3000
VALUES = (
    *("null", "true", "false", "-1", "0", "0.5", "65", "2147483648", "9223372036854775808", "-9223372036854775809"),
    *("1e308", "1e999", "-1e999", "NaN", "Infinity", "9" * 4000, "9" * 6000, '""', '"-1"', '"a"', '"../../outside"'),
    *('"/etc/passwd"', '"NaN"', '"\\ud800"', "[]", "{}", "[[]]", '[1, "a", null]', '{"a": {"b": 1}}', DEEP),
    *(json.dumps(CONTROL), json.dumps("a" * 70_000), json.dumps("ä漢\U0001f600"), '"Infinity"', "1e-400"),
)  # texts of JSON values, to put in the place of others

BEFORE, AFTER = " =\n\t,>\"'[", " =\n\t,<\"']"  # characters around a word

Mutation = Callable[[bytes, random.Random], bytes]


def flipped(content: bytes, draw: random.Random) -> bytes:
    """Some bits of it are others."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def truncated(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def spliced(content: bytes, draw: random.Random) -> bytes:
    """A piece of it is at another place too, or instead of another piece."""
    start, place = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    piece = content[start : start + draw.choice((1, 4, 16, 512))]
    return content[:place] + piece + content[place + draw.choice((0, len(piece))) :]


def overwritten(content: bytes, draw: random.Random) -> bytes:
    """A few bytes of it are extreme ones."""
    place = draw.randrange(len(content) + 1)
    piece = draw.choice((b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7, b"\xff\xff\xff\x7f", b"\x1b[31m", b"\x80" * 3))
    return content[:place] + piece + content[place + len(piece) :]


def replaced(content: bytes, draw: random.Random) -> bytes:
    """Something else altogether."""
    return draw.choice(
        (b"", b"\0", b"[" * 100_000, b"\xff\xfe\x00", b"{}", b"[]", b"null", draw.randbytes(100), b"\n" * 9)
    )


BYTES: tuple[Mutation, ...] = (flipped, flipped, truncated, spliced, overwritten, replaced)


def _nodes(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container and key of a tree of dicts and lists."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _nodes(tree[key])


def retyped(content: bytes, draw: random.Random) -> bytes:
    """One to three values of its JSON are others, or have another name, or are gone."""
    tree, marks = json.loads(content), {}
    for number in range(draw.choice((1, 1, 1, 3))):
        nodes = list(_nodes(tree))
        if not nodes:
            break
        container, key = draw.choice(nodes)
        if draw.random() < 0.1:
            del container[key]
        elif draw.random() < 0.1 and isinstance(container, dict):
            container[draw.choice(("", "a", CONTROL, "../x", "commits"))] = container.pop(key)
        else:
            container[key] = f"@{number}@"
            marks[f'"@{number}@"'] = draw.choice(VALUES)
    text = json.dumps(tree)
    for mark, value in marks.items():
        text = text.replace(mark, value)
    return text.encode()


def reworded(content: bytes, draw: random.Random) -> bytes:
    """One word or number of a text is another; also of TOML, XML, INI, CSV."""
    text = content.decode(errors="replace")
    words = [place for place in range(1, len(text)) if text[place - 1] in BEFORE and text[place] not in BEFORE + AFTER]
    start = draw.choice(words) if words else 0
    end = next((place for place in range(start + 1, len(text)) if text[place] in AFTER), len(text))
    word = draw.choice((*VALUES, CONTROL, "\\u0000", "\\", "$HOME", "%(a)s", "é" * 300, "a\tb\tc", "0x10", "1_0"))
    return (text[:start] + word + text[end:]).encode(errors="replace")


def put_special(victim: Path, draw: random.Random) -> str:
    """Put something that is no regular file, or a huge or a secret one, in the place of a file; return what it is."""
    victim.unlink()
    kind = draw.choice(
        ("folder", "fifo", "huge file", "link to nothing", "link to itself", "missing", "unreadable link")
    )
    match kind:
        case "folder":
            victim.mkdir()
        case "fifo":
            os.mkfifo(victim)
        case "huge file":
            with victim.open("wb") as file:
                file.truncate(2**36)
        case "link to nothing":
            victim.symlink_to("nothing/at/all")
        case "link to itself":
            victim.symlink_to(victim.name)
        case "unreadable link":
            victim.symlink_to("/proc/self/mem")
    return kind
