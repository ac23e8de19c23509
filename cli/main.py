"""The ``compress-ssl`` command. Commands are imported when they are called, so that help is quick."""

import contextlib
import logging
import signal
from typing import Any

import click

from compress_ssl.cli.exit_codes import FAILED
from compress_ssl.cli.groups import LazyGroup, example
from compress_ssl.cli.output import LineFormatter, echo
from compress_ssl.cli.signals import end_at_a_signal, end_at_once_at_the_next
from compress_ssl.pipeline.common.errors import InputError, ReportedByAnotherRank, Stopped
from compress_ssl.pipeline.common.torchrun import torchrun_env
from compress_ssl.storage.errors import StoreError
from compress_ssl.storage.places.urls import check_no_secrets
from compress_ssl.storage.printable import printable

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
        end_at_a_signal()
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
            end_at_once_at_the_next()  # before anything else: Click would call one more Ctrl-C "Aborted!"
            from compress_ssl.cli.errors import cause_of, ending_of

            if env.world_size > 1:
                # srun --kill-on-bad-exit sends SIGTERM when the first rank has ended: the others keep their exit code.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if isinstance(error, ReportedByAnotherRank):
                ending = ending_of(error.__cause__) if error.__cause__ else None
                ctx.exit(ending.exit_code if ending else FAILED)
            cause = cause_of(error)
            ending = ending_of(cause)
            if ending is None:
                raise
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            can_resume = command is not None and any(parameter.name == "resume" for parameter in command.params)
            resume = f"Run the same command {'with --resume to continue' if can_resume else 'again'}."
            interrupted = isinstance(cause, Stopped | KeyboardInterrupt)
            sentence = ending.message(cause, resume)
            with contextlib.suppress(OSError):  # the terminal was closed
                echo(*(["", sentence] if interrupted else [f"Error: {sentence}"]), err=True)
            ctx.exit(ending.exit_code)


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
