"""``compress-ssl completion``."""

import click

from compress_ssl.cli.groups import example


@click.command(
    "completion",
    epilog=example(
        'eval "$(compress-ssl completion bash)"                        in ~/.bashrc',
        'eval "$(compress-ssl completion zsh)"                         in ~/.zshrc',
        "compress-ssl completion fish | source                         in ~/.config/fish/config.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    completion = get_completion_class(shell)
    assert completion is not None
    click.echo(completion(context.find_root().command, {}, "compress-ssl", "_COMPRESS_SSL_COMPLETE").source())
