from __future__ import annotations

import hashlib
import random
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lightning_init.initializers.laws import Law, NormalLaw, UniformLaw
from lightning_init.initializers.truncated import TruncNormalLaw
from lightning_init.rng import Stream, draw_seed, isolated


def draw(seed: int = 0, name: str = "conv.weight", block: int = 0, n: int = 64) -> torch.Tensor:
    return torch.rand(n, generator=Stream(seed, name).generator(block))


def test_a_stream_is_a_function_of_seed_name_and_block() -> None:
    assert torch.equal(draw(3, "a", 2), draw(3, "a", 2))
    streams = [draw(), draw(seed=1), draw(name="conv.bias"), draw(block=1)]
    assert len({tuple(stream.tolist()) for stream in streams}) == len(streams)


@pytest.mark.parametrize("other", [1 + 2**32, 1 + 2**64, -1])
def test_every_digit_of_a_seed_counts(other: int) -> None:
    assert not torch.equal(draw(seed=1), draw(seed=other))


def test_the_documented_key_gives_the_words_of_the_generator() -> None:
    key = "lightning_init/1|7|head.größe|3"
    words = struct.unpack("<624I", hashlib.shake_128(key.encode()).digest(2496))
    reference = random.Random()  # noqa: S311  # the same twister in another implementation
    reference.setstate((3, (*words, 0), None))
    numbers = torch.empty(600, dtype=torch.int32).random_(generator=Stream(7, "head.größe").generator(3))
    assert numbers.tolist() == [reference.getrandbits(32) % 2**31 for _ in range(600)]


def test_a_fresh_generator_every_time() -> None:
    stream = Stream(0, "a")
    first, second = stream.generator(0), stream.generator(1)
    both = torch.rand(4, generator=first), torch.rand(4, generator=second)
    assert torch.equal(both[0], draw(0, "a", 0, 4))
    assert torch.equal(both[1], draw(0, "a", 1, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("law", [NormalLaw(0.5, 2), UniformLaw(-1, 2), TruncNormalLaw(0, 1, -2, 2)])
def test_a_law_draws_no_more_words_than_it_says(law: Law, dtype: torch.dtype) -> None:
    stream = Stream(0, "a")
    for block, numel in enumerate(range(700)):
        expected, drawn = torch.empty(2, numel, dtype=dtype)
        law.fill(expected, stream.generator(block))
        # The words of another stream stand behind those that are asked for.
        stream.lent(10_000 + block)
        words = law.words(numel, dtype)
        assert words is not None
        law.fill(drawn, stream.lent(block, words))
        assert torch.equal(drawn, expected), numel


def test_every_thread_is_lent_a_generator_of_its_own() -> None:
    stream = Stream(0, "a")
    mine = stream.lent(0)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(stream.lent, 1).result()
    assert torch.equal(torch.rand(4, generator=mine), draw(0, "a", 0, 4))
    assert torch.equal(torch.rand(4, generator=other), draw(0, "a", 1, 4))


def test_normal_numbers_do_not_carry_over_between_blocks() -> None:
    # A scalar draw leaves the second number of its pair in the generator it came from.
    stream = Stream(0, "a")
    expected = torch.randn(1, generator=stream.generator(1))
    torch.randn(1, generator=stream.lent(0))
    assert torch.equal(torch.randn(1, generator=stream.lent(1)), expected)


def test_isolated_seeds_the_default_generator_and_puts_it_back() -> None:
    torch.manual_seed(0)
    untouched = torch.rand(2)
    torch.manual_seed(0)
    drawn = []
    for seed, name in [(1, "a"), (1, "a"), (2, "a"), (1 + 2**32, "a"), (1, "b")]:
        with isolated(seed, name, [torch.device("cpu"), torch.device("meta")]):
            drawn.append(tuple(torch.rand(4).tolist()))
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 4
    assert torch.equal(torch.rand(2), untouched)


def _draw_and_raise(error: Exception) -> None:
    torch.rand(1)
    raise error


def test_isolated_puts_the_generator_back_after_an_exception() -> None:
    before = torch.get_rng_state()
    error = KeyError()
    with pytest.raises(KeyError), isolated(0, "a"):
        _draw_and_raise(error)
    assert torch.equal(torch.get_rng_state(), before)


def test_isolated_is_no_stream_of_a_parameter() -> None:
    with isolated(0, "a"):
        assert not torch.equal(torch.rand(64), draw(0, "a"))


def test_draw_seed_takes_one_draw_of_63_bits() -> None:
    torch.manual_seed(5)
    seeds = [draw_seed(), draw_seed()]
    torch.manual_seed(5)
    assert draw_seed() == seeds[0]
    assert seeds[0] != seeds[1]
    assert max(seeds) >= 2**32
    torch.manual_seed(5)
    torch.empty((), dtype=torch.int64).random_(2**63 - 1)
    assert draw_seed() == seeds[1]


def test_no_active_device_or_default_dtype_reaches_in() -> None:
    torch.manual_seed(0)
    seed, numbers = draw_seed(), draw()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    with torch.device("meta"):
        assert draw_seed() == seed
        generator = Stream(0, "conv.weight").generator(0)
        with isolated(0, "a"):
            pass
    assert torch.equal(torch.rand(64, generator=generator, dtype=torch.float32), numbers)
