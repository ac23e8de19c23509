"""What the doctor reads of a machine."""

from compress_ssl.pipeline.doctor.run import driver_version

CLOSED = """NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023
GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)
"""
OPEN = """NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder)
GCC version:  gcc version 13.3.0
"""


def test_driver_version_is_read_from_what_the_kernel_module_says() -> None:
    for text, version in [(CLOSED, "535.104.05"), (OPEN, "570.86.15"), ("something else\n", None)]:
        assert driver_version(text) == version
