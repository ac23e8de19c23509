"""Groups of commands whose errors suggest the nearest known name."""

import importlib

import click


class NearestGroup(click.Group):
    """Group in the order of definition, which suggests commands for an unknown name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; the error for an unknown one lists the known ones, nearest first."""
        from compress_ssl.pipeline.common.errors import unknown_name

        known = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in known:
            raise click.UsageError(str(unknown_name("command", args[0], known)), ctx)
        return super().resolve_command(ctx, args)


class LazyGroup(NearestGroup):
    """Group whose commands are modules of a package, imported when they are called.

    A trailing underscore of a module's name is not part of the command: ``import_``, ``list_``.
    """

    package = "compress_ssl.cli"
    modules: tuple[str, ...] = ()

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return [module.removesuffix("_") for module in self.modules]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        for module in self.modules:
            if cmd_name == module.removesuffix("_"):
                command: click.Command = importlib.import_module(f"{self.package}.{module}").command
                return command
        return None


def example(*lines: str) -> str:
    """Return the epilog of a command's help: examples, not wrapped; an indented line continues the one before."""
    heading = "Example:" if sum(not line.startswith(" ") for line in lines) == 1 else "Examples:"
    return "\n".join(("\b", heading, *(f"  {line}" for line in lines)))
