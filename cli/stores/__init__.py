"""The commands of ``compress-ssl store``, one file per command.

A store is a folder or a URL, as text: Path would drop a slash of ``s3://``.
"""
