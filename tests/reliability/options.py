"""The command line of the experiments."""

import argparse


def parser(description: str | None, **numbers: int) -> argparse.ArgumentParser:
    """A parser of an experiment's numbers, with their defaults, and of its seed."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {**numbers, "seed": 0}.items():
        options.add_argument(f"--{name}", type=int, default=default)
    return options
