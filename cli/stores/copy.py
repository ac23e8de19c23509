"""``compress-ssl store copy``."""

import click

from compress_ssl.cli.groups import example
from compress_ssl.cli.output import echo, json_option, print_result


@click.command("copy", epilog=example("compress-ssl store copy teacher.zarr s3://lab/teacher.zarr"))
@click.argument("source", type=click.Path())
@click.argument("target", type=click.Path())
@click.option("--update", is_flag=True, help="Bring an older copy up to date: add what SOURCE has gained since.")
@json_option
def command(source: str, target: str, update: bool, as_json: bool) -> None:
    """Copy a store, and compare every part with its checksum.

    SOURCE and TARGET are folders, s3://BUCKET/NAME or gs://BUCKET/NAME; SOURCE may also be an https:// URL. The same
    command resumes an interrupted copy, and repairs a damaged one.
    """
    from compress_ssl.cli.progress import TerminalProgress
    from compress_ssl.storage import location
    from compress_ssl.storage.tools.copy import copy_store, plan_copy

    place, plan = location(target), plan_copy(location(source))
    with TerminalProgress().track("copy", len(plan.parts), "parts") as advance:
        copied = copy_store(plan, place, advance, update=update)
    result = {"source": source, "target": target, "parts": len(plan.parts), "bytes": plan.bytes, "copied": copied}
    there = len(plan.parts) - copied
    summary = (
        f"{place}: {len(plan.parts):,} parts, {plan.bytes / 2**20:,.1f} MiB, all checked ({there:,} already present)"
    )
    print_result(result, as_json, lambda: echo(summary))
