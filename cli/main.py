"""The ``compress-ssl`` command. Commands are imported when they are called, so that help is quick."""

import contextlib
import logging
import os
import signal
from typing import Any

import click

from compress_ssl.cli.exit_codes import FAILED, INTERRUPTED, RESUMABLE
from compress_ssl.cli.groups import LazyGroup, example
from compress_ssl.cli.output import LineFormatter, echo
from compress_ssl.pipeline.common.errors import InputError, ReportedByAnotherRank, Stopped, Terminated
from compress_ssl.pipeline.common.torchrun import torchrun_env
from compress_ssl.storage.errors import StoreError
from compress_ssl.storage.places.retries import give_up
from compress_ssl.storage.places.urls import check_no_secrets
from compress_ssl.storage.printable import printable
from compress_ssl.storage.signals import STOP_SIGNALS, TERMINATE

FOR_TORCHRUN = ("pretrain", "distill", "evaluate")  # commands that torchrun may start in several processes


class Commands(LazyGroup):
    """All commands, in the order of the work; errors that a user can act on become one sentence and an exit code."""

    modules = (
        *("pretrain", "embed", "distill", "evaluate", "export", "chain", "run", "sweep"),
        *("quickstart", "pack", "estimate", "store", "models", "doctor", "completion"),
    )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse URLs with passwords before any message repeats them."""
        for text in (*args, *(arg.partition("=")[2] for arg in args)):  # --data=URL, train=FILE
            try:
                check_no_secrets(text)
            except StoreError as error:
                raise click.UsageError(str(error), ctx) from None
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a fault of the program keeps its traceback."""
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, _stop)
        try:
            env = torchrun_env()
        except InputError as error:
            raise click.UsageError(str(error)) from error
        try:
            return super().invoke(ctx)
        except (click.Abort, click.exceptions.Exit):
            raise
        except click.ClickException as error:
            if env.rank > 0:  # all ranks have the same arguments, and rank 0 prints the error
                ctx.exit(error.exit_code)
            error.message = printable(error.message) if error.message else error.message  # type: ignore[misc]
            raise
        except (Exception, KeyboardInterrupt) as error:
            from compress_ssl.cli.errors import ending_of

            if env.world_size > 1:
                # srun --kill-on-bad-exit sends SIGTERM when the first rank has ended: the others keep their exit code.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if isinstance(error, Stopped | KeyboardInterrupt):
                _stop_at_once_from_now_on()
            if isinstance(error, ReportedByAnotherRank):
                ending = ending_of(error.__cause__) if error.__cause__ else None
                ctx.exit(ending.exit_code if ending else FAILED)
            ending = ending_of(error)
            if ending is None:
                raise
            interrupted = isinstance(error, Stopped | KeyboardInterrupt)
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            can_resume = command is not None and any(parameter.name == "resume" for parameter in command.params)
            resume = f"Run the same command {'with --resume to continue' if can_resume else 'again'}."
            sentence = ending.message(error, resume)
            with contextlib.suppress(OSError):  # the terminal was closed
                echo(*(["", sentence] if interrupted else [f"Error: {sentence}"]), err=True)
            ctx.exit(ending.exit_code)


def _stop(number: int, _: object) -> None:
    """End the command with its exit code, at a first signal."""
    _stop_at_once_from_now_on()
    give_up()
    raise Terminated if number in TERMINATE else KeyboardInterrupt


def _stop_at_once_from_now_on() -> None:
    """Let the next signal end the process; but not SIGHUP, which kernel and shell both send of a closed terminal."""
    for each in STOP_SIGNALS:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, _do_nothing if each == signal.SIGHUP else _stop_at_once)


def _do_nothing(*_: object) -> None:
    pass


def _stop_at_once(number: int, _: object) -> None:
    with contextlib.suppress(OSError):  # a closed terminal
        os.write(2, b"\nStopped at once.\n")
    os._exit(RESUMABLE if number in TERMINATE else INTERRUPTED)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=example(
        "compress-ssl quickstart           see everything in a few minutes",
        "compress-ssl run RECIPE.toml      all stages from one file",
    ),
)
@click.option("-q", "--quiet", is_flag=True, help="Print results, warnings and errors only.")
@click.version_option(package_name="compress-ssl")
@click.pass_context
def main(ctx: click.Context, quiet: bool) -> None:
    """Compress a large self-supervised vision model into small ones.

    Embed the images once with a large teacher, distill many students from the embeddings, evaluate them all.
    """
    if not __debug__:
        raise click.UsageError(
            "zarr does not work without assertions; start it without python -O, and with PYTHONOPTIMIZE unset."
        )
    env = torchrun_env()
    if env.world_size > 1 and ctx.invoked_subcommand not in FOR_TORCHRUN:
        raise click.UsageError(
            f"'{ctx.invoked_subcommand}' was started in {env.world_size} processes, but runs in one; start it without "
            f"torchrun, which is for {', '.join(FOR_TORCHRUN)}."
        )
    level = logging.ERROR if env.rank > 0 else logging.WARNING if quiet else logging.INFO
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    for verbose in ("faiss", "onnxscript", "onnx_ir"):  # they log every instruction set, every node
        logging.getLogger(verbose).setLevel(logging.WARNING)
