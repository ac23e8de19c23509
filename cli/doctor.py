"""``compress-ssl doctor``."""

from dataclasses import asdict

import click

from compress_ssl.cli.output import echo, json_option, print_result


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Examine this machine, and try embed, distill and evaluate.

    Takes about ten seconds and writes only to a temporary folder. pretrain and export are not tried. The exit
    code is 1 if a check failed.
    """
    from compress_ssl.pipeline.doctor.run import examine

    checks = []
    for check in examine():
        checks.append(check)
        if not as_json:
            echo(f"{check.name:<10} {'ok' if check.ok else 'failed:'}  {check.detail}")
    failed = [check.name for check in checks if not check.ok]
    result = {"ok": not failed, "checks": [asdict(check) for check in checks]}
    last = f"Failed: {', '.join(failed)}." if failed else "All checks passed."
    print_result(result, as_json, lambda: echo(last))
    if failed:
        raise click.exceptions.Exit(1)
