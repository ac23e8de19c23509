"""Groups of commands that answer an unknown name with the known ones, nearest first."""

from __future__ import annotations

import importlib

import click


class NearestGroup(click.Group):
    """A group that lists its commands in the order they were given, and knows what was meant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        del ctx
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Answer an unknown command with the known ones, nearest first."""
        from compress_ssl.pipeline.common.errors import unknown_name

        known = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in known:
            raise click.UsageError(str(unknown_name("command", args[0], known)), ctx)
        return super().resolve_command(ctx, args)


class LazyGroup(NearestGroup):
    """A group whose commands live in modules of a package, imported when they are called.

    A module whose name would be Python's ends in an underscore, which its command has not: ``import_``, ``list_``.
    """

    package = "compress_ssl.cli"
    modules: tuple[str, ...] = ()

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands."""
        del ctx
        return [module.removesuffix("_") for module in self.modules]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        del ctx
        for module in self.modules:
            if cmd_name == module.removesuffix("_"):
                command: click.Command = importlib.import_module(f"{self.package}.{module}").command
                return command
        return None


def example(*lines: str) -> str:
    """Epilogue of a command's help: examples, not wrapped; a line that begins with a space goes on with the last."""
    return "\n".join(
        (
            "\b",
            "Example:" if sum(not line.startswith(" ") for line in lines) == 1 else "Examples:",
            *(f"  {line}" for line in lines),
        )
    )
