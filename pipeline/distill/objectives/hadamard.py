"""Hadamard matrices: square, of entries 1 and -1, with orthogonal rows; Sylvester's and Paley's constructions.

Sylvester 1867: the Kronecker product of two Hadamard matrices is one. Paley 1933: with the quadratic characters of a
prime q there is one of order q + 1 if q = 3 mod 4, and one of order 2 (q + 1) if q = 1 mod 4. They cover all multiples
of 64 up to 2,688 (prime powers, which Paley takes too, are left out). NVlabs/RADIO, examples/common/hadamard.py at
c0f37017930e, has the same constructions, and a random orthogonal matrix where they fail.
"""

import math

import torch
from torch import Tensor

from compress_ssl.pipeline.common.errors import InputError


def hadamard_matrix(order: int) -> Tensor:
    """Return a Hadamard matrix (order, order) in float64: 2 x 2 blocks by Sylvester around the smallest Paley core.

    Raises:
        InputError: If the constructions have none of this order.
    """
    core = core_order(order)
    if core == 1:
        matrix = torch.ones(1, 1, dtype=torch.float64)
    elif _is_prime(core - 1):
        matrix = _bordered_residues(core - 1, -1) + torch.eye(core, dtype=torch.float64)
    else:
        conference = _bordered_residues(core // 2 - 1, 1)
        matrix = torch.kron(conference, _block(1, 1, 1, -1)) + torch.kron(
            torch.eye(core // 2, dtype=torch.float64), _block(1, -1, -1, -1)
        )
    while len(matrix) < order:
        matrix = torch.kron(_block(1, 1, 1, -1), matrix)
    return matrix


def core_order(order: int) -> int:
    """Return the smallest order of a Paley matrix, or 1, that is ``order`` divided by a power of two.

    Raises:
        InputError: If there is none.
    """
    core = order // (order & -order)  # the odd part
    while core <= order:
        if core == 1 or (core % 4 == 0 and (_is_prime(core - 1) or (core % 8 == 4 and _is_prime(core // 2 - 1)))):
            return core
        core *= 2
    raise InputError(
        f"PHI-S needs a Hadamard matrix of the teacher's dimension, and for {order} no construction is known here; "
        "take --standardisation mean-std."
    )


def _bordered_residues(q: int, left: int) -> Tensor:
    """Return [[0, 1], [left, Q]] of order q + 1, where Q (i, j) is the quadratic character of i - j modulo q."""
    character = -torch.ones(q, dtype=torch.float64)
    character[torch.arange(1, q) ** 2 % q] = 1
    character[0] = 0
    matrix = torch.ones(q + 1, q + 1, dtype=torch.float64)
    matrix[0, 0], matrix[1:, 0] = 0, left
    matrix[1:, 1:] = character[(torch.arange(q)[:, None] - torch.arange(q)) % q]
    return matrix


def _block(*entries: int) -> Tensor:
    return torch.tensor(entries, dtype=torch.float64).view(2, 2)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))
