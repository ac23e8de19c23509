"""How a command names a store: a folder, or a URL (text, since a path would lose a slash of ``s3://``)."""

from __future__ import annotations

import click

store_argument = click.argument("store", type=click.Path())
