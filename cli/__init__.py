"""compress-ssl on the command line."""
