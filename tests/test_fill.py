from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor, nn

from lightning_init.errors import InitError
from lightning_init.initializers.fill import blocks, can_hold, default_generators, fill_, fill_whole_
from lightning_init.initializers.laws import ConstantLaw, Law, NormalLaw, UniformLaw
from lightning_init.initializers.truncated import TruncNormalLaw
from lightning_init.rng import BLOCK, BLOCK_ELSEWHERE, Stream

CPU = torch.device("cpu")

LAWS: list[Law] = [
    NormalLaw(0.5, 0.02),
    UniformLaw(-0.3, 0.1),
    TruncNormalLaw(0, 0.02, -0.04, 0.04),
    TruncNormalLaw(0, 1, 3, 4),
]
HALVES = [
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
]
# Three blocks, the last of them small, and block borders in the middle of every dimension.
SHAPE = (9, 61, 33, 31)


def filled(tensor: Tensor, law: Law = LAWS[0], name: str = "w") -> Tensor:
    fill_(tensor, law, Stream(0, name).generator)
    return tensor


def test_blocks_cover_a_tensor_in_order() -> None:
    assert list(blocks(0, CPU)) == []
    assert list(blocks(1, CPU)) == [(0, 0, 1)]
    assert list(blocks(BLOCK, CPU)) == [(0, 0, BLOCK)]
    assert list(blocks(BLOCK + 1, torch.device("cuda"))) == [(0, 0, BLOCK + 1)]
    assert list(blocks(BLOCK_ELSEWHERE + 1, torch.device("cuda")))[1:] == [(1, BLOCK_ELSEWHERE, BLOCK_ELSEWHERE + 1)]
    assert list(blocks(2 * BLOCK + 1, CPU)) == [(0, 0, BLOCK), (1, BLOCK, 2 * BLOCK), (2, 2 * BLOCK, 2 * BLOCK + 1)]


@pytest.mark.parametrize("law", LAWS)
def test_every_block_comes_from_its_own_generator(law: Law) -> None:
    whole = filled(torch.empty(2 * BLOCK + 100), law)
    for index, start, stop in blocks(whole.numel(), CPU):
        block = torch.empty(stop - start)
        law.fill(block, Stream(0, "w").generator(index))
        assert torch.equal(whole[start:stop], block)
    assert not torch.equal(whole[:100], whole[BLOCK : BLOCK + 100])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("law", LAWS)
def test_strides_do_not_count(law: Law, dtype: torch.dtype) -> None:
    assert math.prod(SHAPE) > 2 * BLOCK
    expected = filled(torch.empty(SHAPE, dtype=dtype), law)
    channels_last = torch.empty(SHAPE, dtype=dtype).to(memory_format=torch.channels_last)
    backwards = torch.empty(SHAPE[::-1], dtype=dtype).permute(3, 2, 1, 0)
    inner = torch.empty(SHAPE[0], SHAPE[2], SHAPE[1], SHAPE[3], dtype=dtype).transpose(1, 2)
    gaps = torch.zeros(SHAPE[0], 2 * SHAPE[1], *SHAPE[2:], dtype=dtype)
    for strided in (channels_last, backwards, inner, gaps[:, ::2]):
        assert not strided.is_contiguous()
        assert torch.equal(filled(strided, law), expected)
    assert not gaps[:, 1::2].any()


@pytest.mark.parametrize("law", [*LAWS, TruncNormalLaw(0, 1, -3.5, 3.5)])
@pytest.mark.parametrize("shape", [(3, 5), (63, 65), (64, 64), (1, 4099), (181, 181), (BLOCK + 3, 1)])
def test_neither_the_shape_nor_the_place_in_memory_counts(law: Law, shape: tuple[int, int]) -> None:
    """Small ones are filled where they are, others elsewhere and copied; two numbers may be drawn at a time."""
    numel = math.prod(shape)
    expected = filled(torch.empty(numel), law)
    assert torch.equal(filled(torch.empty(shape), law).flatten(), expected)
    assert torch.equal(filled(torch.empty(shape[::-1]).t(), law).flatten(), expected)
    for offset in (1, 2, 3):
        assert torch.equal(filled(torch.empty(numel + 4)[offset : offset + numel], law), expected)
    assert torch.equal(filled(torch.empty(2 * numel)[::2], law), expected)


def test_a_flat_view_with_gaps() -> None:
    every_other = torch.zeros(2 * BLOCK + 600)[::2]
    assert torch.equal(filled(every_other), filled(torch.empty(BLOCK + 300)))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("law", LAWS)
def test_below_single_precision_it_is_the_rounded_stream(law: Law, dtype: torch.dtype) -> None:
    expected = filled(torch.empty(BLOCK + 50), law).to(dtype)
    assert torch.equal(filled(torch.empty(BLOCK + 50, dtype=dtype), law).float(), expected.float())


def test_double_precision_is_drawn_as_such() -> None:
    numbers = filled(torch.empty(1000, dtype=torch.float64), NormalLaw(0, 1))
    assert not torch.equal(numbers, numbers.float().double())


def test_the_default_generator_moves_on() -> None:
    torch.manual_seed(0)
    first, second = torch.empty(BLOCK + 5), torch.empty(5)
    fill_(first, NormalLaw(0, 1), default_generators)
    fill_(second, NormalLaw(0, 1), default_generators)
    torch.manual_seed(0)
    sizes = (BLOCK, 5, 5)
    assert torch.equal(torch.cat([first, second]), torch.cat([torch.randn(size) for size in sizes]))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0, 2), ()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tensors_without_elements_or_dimensions(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = filled(torch.full(shape, 7, dtype=dtype), UniformLaw(0, 1))
    assert tensor.shape == shape
    assert (tensor < 1).all()


def test_no_gradient_is_recorded() -> None:
    weight = nn.Parameter(torch.empty(4, 4))
    fill_(weight, LAWS[0], default_generators)
    fill_(weight, ConstantLaw(1), default_generators)
    fill_whole_(weight, TestWhole.draw, default_generators)
    assert weight.is_leaf
    assert weight.requires_grad
    assert weight.grad_fn is None


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_active_device_or_default_dtype_reaches_in(law: Law, dtype: torch.dtype) -> None:
    expected = filled(torch.empty(500, dtype=dtype), law)
    tensor = torch.empty(500, dtype=dtype)
    torch.set_default_dtype(torch.float64)
    with torch.device("meta"):
        filled(tensor, law)
    assert torch.equal(tensor, expected)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        *[(dtype, 0.5) for dtype in (torch.float32, torch.float64, torch.complex64, *HALVES)],
        *[(dtype, 3) for dtype in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)],
        (torch.int64, 3.0),
        (torch.bool, 1),
        (torch.float32, math.inf),
    ],
)
def test_constants_fill_every_type(dtype: torch.dtype, value: float) -> None:
    tensor = torch.zeros(3, 2, dtype=dtype).T
    fill_(tensor, ConstantLaw(value), default_generators)
    assert tensor.to(torch.complex64 if dtype.is_complex else torch.float64).tolist() == [[value] * 3] * 2


@pytest.mark.parametrize(
    ("dtype", "law", "message"),
    [
        (torch.int64, LAWS[0], "only into a real floating point type"),
        (torch.bool, LAWS[1], "only into a real floating point type"),
        (torch.complex64, LAWS[2], "only into a real floating point type"),
        (torch.int64, None, "only into a real floating point type"),
        (torch.int64, ConstantLaw(0.5), "no whole number"),
        (torch.uint8, ConstantLaw(-1), r"outside of what torch.uint8 holds \(0 to 255\)"),
        (torch.bool, ConstantLaw(2), "neither 0 nor 1"),
        (torch.float16, ConstantLaw(-1e5), r"too large for torch.float16 \(up to 65504.0\)"),
        (torch.float32, ConstantLaw(1e39), "too large for torch.float32"),
        (torch.float16, NormalLaw(0, 1e5), "up to 600000 are too large for torch.float16"),
        (torch.float16, UniformLaw(0, 1e5), "up to 100000 are too large for torch.float16"),
        (torch.float32, UniformLaw(-3e38, 3e38), "too large for torch.float32"),
        (torch.float32, NormalLaw(math.inf, 1), "too large for torch.float32"),
        (torch.float4_e2m1fn_x2, ConstantLaw(1), "cannot be written into torch.float4_e2m1fn_x2"),
    ],
)
def test_what_a_type_cannot_hold(dtype: torch.dtype, law: Law | None, message: str) -> None:
    assert re.search(message, can_hold(dtype, law) or "nothing is in the way")


def test_what_a_type_can_hold() -> None:
    for dtype in (torch.float32, torch.float64, *HALVES):
        assert can_hold(dtype, None) is None
        assert all(can_hold(dtype, law) is None for law in LAWS)
    # Bounds far beyond any number that is drawn do no harm.
    assert can_hold(torch.float16, TruncNormalLaw(0, 0.02, -1e6, 1e6)) is None
    assert can_hold(torch.float64, NormalLaw(0, 1e39)) is None


def test_a_refused_tensor_is_as_it_was() -> None:
    for tensor, law in [(torch.ones(3, dtype=torch.int64), LAWS[0]), (torch.ones(3).half(), ConstantLaw(1e9))]:
        with pytest.raises(InitError):
            filled(tensor, law)
        assert tensor.tolist() == [1, 1, 1]


def test_a_tensor_without_dense_storage_is_refused() -> None:
    for law in (LAWS[0], ConstantLaw(0)):
        with pytest.raises(InitError, match="meta device"):
            filled(torch.empty(3, device="meta"), law)
        with pytest.raises(InitError, match=r"torch\.sparse_coo"):
            filled(torch.eye(3).to_sparse(), law)


class TestWhole:
    @staticmethod
    def draw(whole: Tensor, generator: torch.Generator | None) -> None:
        assert whole.is_contiguous()
        nn.init.orthogonal_(whole, generator=generator)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_it_gets_the_tensor_in_its_shape(self, dtype: torch.dtype) -> None:
        tensor, expected = torch.empty(6, 2, 4, dtype=dtype), torch.empty(6, 2, 4, dtype=dtype)
        fill_whole_(tensor, self.draw, Stream(0, "w").generator)
        nn.init.orthogonal_(expected, generator=Stream(0, "w").generator(0))
        assert torch.equal(tensor, expected)

    def test_half_precision_is_rounded(self) -> None:
        single, half = torch.empty(6, 8), torch.empty(6, 8, dtype=torch.bfloat16)
        for tensor in (single, half):
            fill_whole_(tensor, self.draw, Stream(0, "w").generator)
        assert torch.equal(half, single.bfloat16())

    def test_strides_do_not_count(self) -> None:
        expected, transposed = torch.empty(6, 8), torch.empty(8, 6).T
        for tensor in (expected, transposed):
            fill_whole_(tensor, self.draw, Stream(0, "w").generator)
        assert torch.equal(transposed, expected)

    def test_integers_are_refused(self) -> None:
        with pytest.raises(InitError, match="real floating point type"):
            fill_whole_(torch.ones(2, 2, dtype=torch.int32), self.draw, default_generators)
