"""The command line: one file per command, which parses, calls a stage and prints."""
