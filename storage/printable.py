"""Text that comes from anybody, such as a name in a store, made safe to show on a terminal or in a file."""

import re

UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters: a terminal obeys them
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"  # invisible, or turn the direction of text
    "\u2028\u2029\ufff9-\ufffb\U000e0000-\U000e007f"  # ends of lines, annotations, tags
    "\ud800-\udfff]"  # halves of characters: bytes of a file name that is not UTF-8
)


def printable(text: object) -> str:
    """Return text as one line, in which characters that cannot be seen, or act on the terminal, are escaped."""
    return UNSAFE.sub(lambda found: ascii(found[0])[1:-1], str(text))
