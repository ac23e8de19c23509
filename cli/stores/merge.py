"""``compress-ssl store merge``."""

import click

from compress_ssl.cli.groups import example
from compress_ssl.cli.output import echo, json_option, print_result


@click.command("merge", epilog=example("compress-ssl store merge part1.zarr part2.zarr teacher.zarr"))
@click.argument("stores", metavar="STORE...", nargs=-1, required=True, type=click.Path())
@click.argument("target", type=click.Path())
@json_option
def command(stores: tuple[str, ...], target: str, as_json: bool) -> None:
    """Merge stores that were embedded separately into TARGET.

    The stores have the same settings, and each has some of the blocks ('embed --part 1/2'), views or splits. The result
    is byte for byte that of a single run; missing blocks are listed, and 'embed --resume' computes them. The same
    command resumes an interrupted merge.
    """
    from compress_ssl.cli.progress import TerminalProgress
    from compress_ssl.storage import location, open_store
    from compress_ssl.storage.tools.merge import merge_stores, plan_merge

    plan = plan_merge([open_store(store) for store in stores])
    with TerminalProgress().track("merge", len(plan.found), "blocks") as advance:
        missing = merge_stores(plan, location(target), advance)
    state = "not complete" if missing else "complete"
    last = f"{target}: {len(plan.found):,} blocks of {len(stores)} stores, {state}"
    result = {"target": target, "blocks": len(plan.found), "complete": not missing, "missing": missing}
    print_result(result, as_json, lambda: echo(*missing, last))
