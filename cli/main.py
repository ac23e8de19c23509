"""The ``compress-ssl`` command. Commands are imported when they are called, so that help is quick."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING, Any

import click

from compress_ssl.cli.errors import BadInput, as_sentence
from compress_ssl.cli.groups import LazyGroup, example

if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
REQUEUE = 75
"""Exit code of a run that SIGTERM or SIGUSR1 ended, all saved: the same job again goes on (sysexits.h, EX_TEMPFAIL)."""
IN_SEVERAL_PROCESSES = ("pretrain", "distill", "evaluate")
"""What torchrun may start."""


class Commands(LazyGroup):
    """All commands in the order of the work; what the user can mend becomes one sentence."""

    modules = (
        *("pretrain", "embed", "distill", "evaluate", "export", "chain", "run", "sweep"),
        *("quickstart", "pack", "estimate", "store", "models", "doctor", "completion"),
    )

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a fault of ours keeps its traceback."""
        try:
            for each in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(each, _terminate)
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            click.echo(f"\nStopped. {_going_on(self, ctx)}", err=True)
            ctx.exit(_exit_code(stopped))
        except click.ClickException as error:
            if not _is_first_process():  # all were given the same words, and the first one answers
                ctx.exit(error.exit_code)
            raise
        except (click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            from compress_ssl.pipeline.common.errors import ReportedByAnotherRank, Stopped

            if isinstance(error, ReportedByAnotherRank):
                ctx.exit(_exit_code(error.__cause__))
            if isinstance(error, Stopped):
                click.echo(f"\n{error} {_going_on(self, ctx)}", err=True)
                ctx.exit(_exit_code(error))
            sentence = as_sentence(error, _going_on(self, ctx))
            if sentence is None:
                raise
            raise sentence from error


def _terminate(number: int, frame: FrameType | None) -> None:
    del number, frame
    from compress_ssl.pipeline.common.errors import Terminated

    raise Terminated


def _exit_code(error: BaseException | None) -> int:
    """Exit code of what ended a command."""
    from compress_ssl.pipeline.common.errors import Stopped, Terminated

    if isinstance(error, Stopped):
        return INTERRUPTED if error.signal == signal.SIGINT else REQUEUE
    if isinstance(error, KeyboardInterrupt):
        return REQUEUE if isinstance(error, Terminated) else INTERRUPTED
    return 1


def _is_first_process() -> bool:
    from compress_ssl.pipeline.common.torchrun import torchrun_env

    return torchrun_env().rank == 0


def _check_processes(name: str | None) -> None:
    """Several processes are for trainings only."""
    from compress_ssl.pipeline.common.torchrun import torchrun_env

    here = torchrun_env()
    if here.world_size > 1 and name not in IN_SEVERAL_PROCESSES:
        raise BadInput(
            f"'{name}' was started in {here.world_size} processes, and is the work of one; start it without torchrun, which is "
            f"for {', '.join(IN_SEVERAL_PROCESSES)}."
        )


def _going_on(group: click.Group, ctx: click.Context) -> str:
    """How an interrupted command goes on."""
    command = group.get_command(ctx, ctx.invoked_subcommand or "")
    options = {parameter.name for parameter in command.params} if command else set()
    if "overwrite" in options and "resume" not in options:
        return "The same command begins again."
    return f"The same command {'with --resume ' if 'resume' in options else ''}goes on where it was."


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=example(
        "compress-ssl quickstart           see it all in a few minutes",
        "compress-ssl run RECIPE.toml      all stages from one file",
    ),
)
@click.option("-q", "--quiet", is_flag=True, help="Print results, warnings and errors only.")
@click.version_option(package_name="compress-ssl")
@click.pass_context
def main(ctx: click.Context, quiet: bool) -> None:
    """Compress a large self-supervised vision model into small ones.

    Embed the images once with a big teacher, distil many students from the embeddings, evaluate them all.
    """
    _check_processes(ctx.invoked_subcommand)
    level = logging.ERROR if not _is_first_process() else logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=level, format="%(message)s")
    for chatty in ("faiss", "onnxscript", "onnx_ir"):  # they tell of every instruction set, of every node
        logging.getLogger(chatty).setLevel(logging.WARNING)


if __name__ == "__main__":
    main()
