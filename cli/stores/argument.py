"""The argument STORE: a folder or a URL, as text, since Path would drop a slash of ``s3://``."""

from __future__ import annotations

import click

store_argument = click.argument("store", type=click.Path())
