"""The ``compress-ssl`` command. Commands are imported when they are called, so that help is quick."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import click

from cli.errors import as_sentence

COMMANDS = ("pretrain", "embed", "distill", "evaluate", "run", "quickstart", "store")
"""Modules of this package, each with a ``command``; in the order of the work."""


class LazyGroup(click.Group):
    """A group whose commands live in modules of their names, and whose errors are sentences."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Answer an unknown command with the known ones, nearest first."""
        from pipeline.errors import unknown_name

        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.UsageError(str(unknown_name("command", args[0], COMMANDS)), ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what the user can mend becomes one sentence, a fault of ours keeps its traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\nStopped. The same command with --resume goes on where it was.", err=True)
            ctx.exit(130)
        except click.ClickException:
            raise
        except Exception as error:
            sentence = as_sentence(error)
            if sentence is None:
                raise
            raise sentence from error


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="compress-ssl")
def main() -> None:
    r"""Compress a large self-supervised vision model into small ones.

    Embed the images once with a big teacher, distil many students from the embeddings, evaluate them all.

    \b
      compress-ssl quickstart                  see it all in a few minutes
      compress-ssl run RECIPE.toml             all stages from one file
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it tells of every instruction set it tries


if __name__ == "__main__":
    main()
