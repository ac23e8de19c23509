"""The exact search, against a float64 loop over every pair."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.evaluate.knn.search import nearest_neighbours

Array = npt.NDArray[np.floating]


def one_pair_at_a_time(bank: Array, queries: Array, k: int) -> tuple[list[list[float]], list[list[int]]]:
    """Sort every query's cosines to all rows, in float64; of equal ones the smaller row first."""
    similarity, row = [], []
    for query in queries.astype(np.float64):
        cosines = [float(query @ other / (np.linalg.norm(query) * np.linalg.norm(other))) for other in
                   bank.astype(np.float64)]  # fmt: skip
        order = sorted(range(len(bank)), key=lambda number: (-cosines[number], number))[:k]
        similarity.append([cosines[number] for number in order])
        row.append(order)
    return similarity, row


def signs(count: int, dim: int, seed: int) -> npt.NDArray[np.float16]:
    """Rows of plus and minus one. With 4, 16 or 64 of them every cosine is exact in float32, and many are equal."""
    return np.random.default_rng(seed).choice([-1, 1], (count, dim)).astype(np.float16)


@pytest.mark.parametrize("k", [1, 2, 20, 150])
def test_neighbours_are_those_of_every_pair_compared(k: int) -> None:
    generator = np.random.default_rng(0)
    bank = generator.normal(size=(150, 24)).astype(np.float16)
    queries = generator.normal(size=(40, 24)).astype(np.float16)
    similarity, row = one_pair_at_a_time(bank, queries, k)
    for bank_block, query_block in ((1000, 1000), (64, 1000), (7, 5), (1, 1), (150, 40)):
        found = nearest_neighbours(bank, queries, k, bank_block=bank_block, query_block=query_block)
        np.testing.assert_array_equal(found.row, row)
        np.testing.assert_allclose(found.similarity, similarity, atol=1e-6)
        assert found.row.dtype == np.int64
        assert found.similarity.dtype == np.float32


@pytest.mark.parametrize("cuts", [[], [1], [40, 40, 149], list(range(150))])
def test_bank_may_come_in_parts_of_any_size(cuts: list[int]) -> None:
    generator = np.random.default_rng(3)
    bank, queries = generator.normal(size=(150, 16)), generator.normal(size=(20, 16))
    whole = nearest_neighbours(bank, queries, 30)
    parts = nearest_neighbours(iter(np.split(bank, cuts)), queries, 30, bank_block=23)
    np.testing.assert_array_equal(parts.row, whole.row)
    np.testing.assert_allclose(parts.similarity, whole.similarity, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 19, 100, 300])
def test_of_equal_similarities_the_smaller_row_is_first(k: int) -> None:
    """Up to eight rows are equal: images that are in a dataset more than once."""
    distinct = np.unique(signs(60, 64, 1), axis=0)
    bank = np.concatenate([distinct] * 5)[:300]
    queries = signs(30, 64, 2)
    cosines = (queries @ bank.T).astype(np.float64) / 64
    expected = np.take_along_axis(cosines, np.argsort(-cosines, axis=1, kind="stable")[:, :k], 1)
    for bank_block in (500, 90, 33, 7):
        found = nearest_neighbours(bank, queries, k, bank_block=bank_block, query_block=11)
        # At the cut more may be equal than are put in order; what is kept is as near.
        np.testing.assert_array_equal(np.take_along_axis(cosines, found.row, 1), expected)
        order = np.lexsort((found.row, -found.similarity), axis=1)
        np.testing.assert_array_equal(order, np.tile(np.arange(k), (30, 1)))


@pytest.mark.parametrize("copies", [2, 5, 9])
def test_the_first_of_several_copies_is_the_nearest(copies: int) -> None:
    once = np.random.default_rng(4).normal(size=(40, 32))
    found = nearest_neighbours(np.concatenate([once] * copies), once, 1, bank_block=64)
    np.testing.assert_array_equal(found.row[:, 0], np.arange(40))


def test_features_that_are_all_equal_give_the_first_rows() -> None:
    same = np.ones((50, 8), np.float32)
    found = nearest_neighbours(same, same[:9], 5, bank_block=13, query_block=4)
    np.testing.assert_array_equal(found.row, np.tile(np.arange(5), (9, 1)))


def test_length_of_a_feature_does_not_matter() -> None:
    generator = np.random.default_rng(3)
    bank, queries = generator.normal(size=(80, 16)), generator.normal(size=(20, 16))
    lengths = 10 ** generator.uniform(-3, 3, (80, 1))
    plain = nearest_neighbours(bank, queries, 9)
    scaled = nearest_neighbours(bank * lengths, queries * 1e3, 9)
    np.testing.assert_array_equal(plain.row, scaled.row)


def test_row_of_zeros_is_neither_near_nor_far() -> None:
    bank = np.array([[-1, 0], [0, 0], [1, 0]], np.float16)
    found = nearest_neighbours(bank, np.array([[2, 0], [0, 0]], np.float16), 3)
    assert found.row[0].tolist() == [2, 1, 0]
    assert found.similarity.tolist() == [[1, 0, -1], [0, 0, 0]]


def test_inputs_are_left_as_they_were() -> None:
    bank = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    kept = bank.copy()
    bank.flags.writeable = False
    nearest_neighbours(bank, bank, 3)
    np.testing.assert_array_equal(bank, kept)


@pytest.mark.parametrize("k", [31, 1000])
def test_more_neighbours_than_there_are_is_an_error(k: int) -> None:
    with pytest.raises(
        InputError, match=f"The 30 training images are fewer than the {k} nearest neighbours; give fewer"
    ):
        nearest_neighbours(np.ones((30, 4)), np.ones((2, 4)), k)


def test_gpu_that_faiss_does_not_see_is_replaced_by_the_cpu() -> None:
    bank = np.random.default_rng(5).normal(size=(40, 8))
    found = nearest_neighbours(bank, bank, 1, device="cuda:63")
    np.testing.assert_array_equal(found.row[:, 0], np.arange(40))


def test_features_of_two_networks_are_an_error() -> None:
    with pytest.raises(InputError, match="have 4 features and the test images 5"):
        nearest_neighbours(np.ones((30, 4)), np.ones((2, 5)), 1)


MEASURE = """
import sys, threading, time
import numpy as np, torch
from compress_ssl.pipeline.evaluate.knn.search import nearest_neighbours

def own_kilobytes():  # what is allocated; the pages of a memory map are the system's
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])

def watch():
    while not done:
        highest.append(own_kilobytes())
        time.sleep(0.002)

torch.set_num_threads(1)
bank = np.memmap(sys.argv[1], np.float16, "r", shape=(250_000, 256))
nearest_neighbours(bank[:64], bank[:64], 3)
done, before, highest = False, own_kilobytes(), []
thread = threading.Thread(target=watch)
thread.start()
found = nearest_neighbours(bank, bank[::2500], 200)
done = True
thread.join()
assert (found.row[:, 0] == np.arange(0, 250_000, 2500)).all()
print(max(highest) - before)
"""


def test_memory_does_not_grow_with_the_bank(tmp_path: Path) -> None:
    """250,000 rows are 128 MB in float16 and 256 MB in float32; the search takes less than 100 MB besides the map."""
    file = tmp_path / "bank"
    bank = np.memmap(file, np.float16, "w+", shape=(250_000, 256))
    bank[:] = np.random.default_rng(0).integers(-127, 128, bank.shape, np.int8)
    root = Path(__file__).parents[4]
    answer = subprocess.run(
        [sys.executable, "-c", MEASURE, str(file)], cwd=root, capture_output=True, text=True, check=True
    )
    assert 1000 * int(answer.stdout) < 100e6, answer.stdout
