"""The commands of ``compress-ssl store``, one a file."""
