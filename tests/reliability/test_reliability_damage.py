"""The script of damage at a few places; docs/reliability.md has it at a hundred."""

from tests.reliability.damage import FAULTS, main

COUNT = 6


def test_no_row_of_a_damaged_store_is_read_wrong_and_verify_finds_the_damage() -> None:
    results = main(COUNT, seed=1)
    assert {fault: answers.wrong for fault, (answers, _) in results.items()} == dict.fromkeys(FAULTS, 0)
    assert all(answers.right for fault, (answers, _) in results.items() if "zarr.json" not in fault)
    assert all(found == COUNT for fault, (_, found) in results.items() if "zarr.json" not in fault)
