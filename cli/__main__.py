"""``python -m cli`` is ``compress-ssl``."""

from cli.main import main

main(prog_name="compress-ssl")
