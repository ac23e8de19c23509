"""``compress-ssl store verify``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from compress_ssl.cli.groups import example
from compress_ssl.cli.options import make_settings, settings_options
from compress_ssl.cli.output import echo, json_option, print_result
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.embed.verify.settings import VerifySettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from compress_ssl.pipeline.embed.verify.reembed import Agreement
    from compress_ssl.storage import Split


@click.command(
    "verify",
    epilog=example(
        "compress-ssl store verify teacher.zarr --sample 100",
        "compress-ssl store verify teacher.zarr --teacher runs/teacher --data photographs",
    ),
)
@click.argument("store", type=click.Path())
@settings_options(VerifySettings, without={"renderer"})
@json_option
def command(store: str, as_json: bool, **given: Any) -> None:
    """Compare the committed bytes of a store with their checksums.

    Its values must be possible, too. With --teacher, a sample of images is also rendered and embedded again,
    patches included; a cosine below 0.999 is an error.
    """
    settings = make_settings(VerifySettings, given)
    from compress_ssl.cli.progress import TerminalProgress
    from compress_ssl.pipeline.images.canaries import stored_canaries
    from compress_ssl.pipeline.images.stored_views import check_views
    from compress_ssl.storage import location, open_store
    from compress_ssl.storage.tools.verify import verify_store

    opened = open_store(store)
    if settings.uses_dask:
        from compress_ssl.pipeline.embed.verify.on_dask import verify_on_dask

        result = verify_on_dask(location(store), settings, TerminalProgress(), settings.sample)
    else:
        result = verify_store(opened, settings.sample)
    result.damaged.extend(_refusals(check_views, opened.splits))
    if not result.damaged:
        result.damaged.extend(_refusals(lambda split: stored_canaries(opened, split.name), opened.splits))
    agreements: list[Agreement] = []
    if settings.teacher is not None and not result.damaged:
        from compress_ssl.pipeline.embed.verify.reembed import reembed

        agreements = reembed(opened, settings, TerminalProgress())
    ok = result.ok and all(each.ok for each in agreements)
    answer = {"ok": ok, **asdict(result), "embedded_again": [{"ok": each.ok, **each._asdict()} for each in agreements]}
    verdict = "ok" if result.ok else "failed"
    lines = [*result.damaged, *result.missing]
    lines.append(f"{result.parts:,} parts, {result.bytes / 2**20:,.1f} MiB: {verdict}")
    lines += (
        f"{each.split}: {each.of} of {each.images} images computed again, cosine {each.cosine_mean:.6f} on average, "
        f"{each.cosine_min:.6f} at least ({each.least}): {'ok' if each.ok else 'failed'}"
        for each in agreements
    )
    print_result(answer, as_json, lambda: echo(*lines))
    if not ok:
        raise click.exceptions.Exit(1)


def _refusals(check: Callable[[Split], object], splits: Iterable[Split]) -> Iterator[str]:
    """Yield what a check says of each split that it refuses."""
    for split in splits:
        try:
            check(split)
        except InputError as error:
            yield str(error)
