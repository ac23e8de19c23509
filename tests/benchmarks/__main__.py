"""Run the benchmarks, and write docs/benchmarks.md: ``make bench``.

A section of the page is one script: the first line of its docstring is the heading, the rest says what is measured, and
what it prints is the result. A script that is left out, or fails, keeps the section that it has.
"""

import argparse
import datetime
import importlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from compress_ssl.pipeline.common.device import library_versions

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"

SCRIPTS = ("embed", "objective", "live_teacher", "peers", "growth")
