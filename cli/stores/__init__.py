"""The commands of ``compress-ssl store``, one file per command."""
