"""The script of hostile tars and folders at a few of each; docs/reliability.md has it at more."""

from tests.reliability.hostile_images import FOLDERS, TARS, main

COUNT = 3

RIGHT = {
    *("tar: long names, GNU", "tar: long names, pax", "tar: a contiguous member"),
    *("folder: a link to a folder above", "folder: a link to itself", "folder: a link to another class"),
    *("folder: a hidden folder", "folder: a file of macOS"),
}
"""All others are refused."""


def test_hostile_tars_and_folders_are_read_right_or_refused() -> None:
    results = main(COUNT, seed=1)
    assert len(results) == len(TARS) + len(FOLDERS)
    for kind, answers in results.items():
        assert answers == {"right" if kind in RIGHT else "refused": COUNT}, kind
