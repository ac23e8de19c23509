"""``python -m compress_ssl`` is ``compress-ssl``."""

from compress_ssl.cli.main import main

main(prog_name="compress-ssl")
