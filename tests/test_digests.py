from __future__ import annotations

import hashlib
from itertools import combinations

import pytest
import torch
from torch import Tensor

from lightning_init.digests import _COLUMNS, _ROWS, digest

BLOCK = 2 * _ROWS * _COLUMNS
"""Elements of float32 in the block that sums are made of."""
ROW = 2 * _COLUMNS

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.complex64,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,), (2, 3)])
def test_every_type_and_shape_repeats(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    assert digest([torch.ones(shape).to(dtype)]) == digest([torch.ones(shape).to(dtype)])


def test_of_a_small_tensor_it_is_sha256_of_the_bytes_under_type_and_shape() -> None:
    tensor = torch.arange(6.0).view(2, 3)
    assert digest([tensor]) == hashlib.sha256(b"torch.float32(2, 3)" + tensor.numpy().tobytes()).hexdigest()


def test_different_tensors_differ() -> None:
    base = torch.arange(6.0)
    tensors = [
        [base],
        [base.flip(0)],
        [base.view(2, 3)],
        [base.view(3, 2)],
        [base.double()],
        [base + torch.tensor([0, 0, 0, 0, 0, 1e-6])],
        [base[:5]],
        [base, base],
        [base[:3], base[3:]],
        [torch.empty(0)],
        [torch.empty(0, 1)],
        [torch.zeros(())],
        [torch.zeros(1)],
        [torch.tensor([-0.0])],
        [],
    ]
    for (i, first), (j, second) in combinations(enumerate(tensors), 2):
        assert digest(first) != digest(second), (i, j)


def test_each_dtype_has_its_own() -> None:
    assert len({digest([torch.zeros(4).to(dtype)]) for dtype in DTYPES}) == len(DTYPES)


@pytest.mark.parametrize("n", [ROW - 1, ROW, ROW + 1, BLOCK, BLOCK + 1, 2 * BLOCK + ROW + 3])
def test_every_element_of_every_block_counts(n: int) -> None:
    places = sorted({i for i in (0, 1, ROW - 1, ROW, BLOCK - 1, BLOCK, BLOCK + ROW, n - 1) if i < n})
    found = {digest([torch.zeros(n)])}
    for i in places:
        changed = torch.zeros(n)
        changed[i] = 1
        found.add(digest([changed]))
    assert len(found) == 1 + len(places)


def test_the_order_counts_in_every_direction() -> None:
    table = torch.randn(2 * _ROWS, ROW, generator=torch.Generator().manual_seed(0))
    orders = [table, table.flip(0), table.flip(1), table.roll(1, 0), table.roll(2, 1), table.flatten().roll(2)]
    swapped = table.clone()
    swapped[[0, 1]] = table[[1, 0]]
    one = table.clone()
    one[3, 4], one[3, 8] = table[3, 8], table[3, 4]
    other = table.clone()
    other[3, 4], other[5, 4] = table[5, 4], table[3, 4]
    flat = [order.flatten() for order in (*orders, swapped, one, other)]
    assert len({digest([tensor]) for tensor in flat}) == len(flat)


def test_a_part_of_a_larger_tensor_is_as_good_as_a_copy() -> None:
    whole = torch.arange(BLOCK + ROW + 7).to(torch.uint8)
    for start in (1, 8, 3):
        part = whole[start:]
        assert digest([part]) == digest([part.clone()])


def strided(tensor: Tensor) -> list[Tensor]:
    rows, columns = tensor.shape
    spread = torch.zeros(rows, 2 * columns, dtype=tensor.dtype)
    spread[:, ::2] = tensor
    return [tensor.T.contiguous().T, spread[:, ::2], torch.stack([tensor, tensor])[1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_strides_do_not_count(dtype: torch.dtype) -> None:
    tensor = torch.arange(12.0).view(3, 4).to(dtype)
    for other in strided(tensor):
        assert torch.equal(other, tensor)
        assert digest([other]) == digest([tensor])


def test_views_that_conjugate_or_negate_are_resolved() -> None:
    tensor = torch.complex(torch.arange(3.0), torch.ones(3))
    assert tensor.conj().is_conj()
    assert digest([tensor.conj()]) == digest([torch.complex(torch.arange(3.0), -torch.ones(3))])
    for negated in (tensor.conj().imag, torch._neg_view(torch.ones(3))):
        assert negated.is_neg()
        assert digest([negated]) == digest([-torch.ones(3)])


def test_parameters_are_left_alone() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    assert digest([weight]) == digest([torch.ones(3)])
    assert weight.requires_grad
    assert weight.grad is None


@pytest.mark.parametrize("n", [1, BLOCK, BLOCK + 3])
def test_storage_can_be_resized_afterwards(n: int) -> None:
    tensor = torch.ones(n)
    digest([tensor])
    tensor.untyped_storage().resize_(0)
