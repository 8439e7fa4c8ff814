"""Shares of tensors against an enumeration of their elements; real placements are tested by real ranks."""

from __future__ import annotations

import itertools
import random
from math import prod

import pytest
import torch
from torch import Tensor

from lightning_init.sharding import Share, Span

SHAPES = [(), (1,), (9,), (4, 5), (5, 1, 3), (3, 4, 2, 2), (0, 3), (3, 0)]


def some_spans(size: int, rng: random.Random) -> tuple[Span, ...]:
    """A few ascending ranges of a dimension, perhaps none."""
    cuts = sorted(rng.sample(range(size + 1), min(size + 1, rng.choice([0, 2, 4])) // 2 * 2))
    spans, here = [], 0
    for start, stop in itertools.pairwise(cuts):
        if cuts.index(start) % 2 == 0:
            spans.append(Span(start, here, stop - start))
            here += stop - start
    return tuple(spans)


def a_share(shape: tuple[int, ...], seed: int) -> tuple[Share, Tensor, Tensor]:
    """A share, the whole tensor that counts its elements, and what of it is here."""
    rng = random.Random(seed)  # noqa: S311  # nothing secret
    share = Share(shape, tuple(some_spans(size, rng) for size in shape))
    whole = torch.arange(prod(shape)).view(shape)
    here = whole
    for dim, spans in enumerate(share.spans):
        indices = [index for span in spans for index in range(span.start, span.start + span.length)]
        here = here.index_select(dim, torch.tensor(indices, dtype=torch.int64))
    return share, whole, here


@pytest.mark.parametrize("shape", SHAPES)
def test_how_many_elements_come_before_an_index(shape: tuple[int, ...]) -> None:
    for seed in range(20):
        share, whole, here = a_share(shape, seed)
        for index in range(whole.numel() + 1):
            assert share.before(index) == int((here < index).sum())


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_ranges_and_whole_values_are_put_where_they_belong(shape: tuple[int, ...], transposed: bool) -> None:
    for seed in range(20):
        share, whole, here = a_share(shape, seed)

        def empty(here: Tensor = here) -> Tensor:
            return (
                torch.full(here.shape[::-1], -1).permute(tuple(range(here.dim()))[::-1]) if transposed else here * 0 - 1
            )

        target, flat = empty(), whole.view(-1)
        for start in range(0, whole.numel(), 7):
            stop = min(start + 7, whole.numel())
            share.put(target, start, flat[start:stop])
            assert torch.equal(target, torch.where(here < stop, here, -1))
        copied = empty()
        share.copy(copied, whole)
        assert torch.equal(copied, here)


def test_a_row_that_is_here_and_one_that_is_not() -> None:
    share = Share((6, 2), ((Span(1, 0, 1), Span(4, 1, 2)), (Span(0, 0, 2),)))
    here = torch.ones(3, 2)
    share.zero_row(here, 2)
    assert here.tolist() == [[1, 1], [1, 1], [1, 1]]
    share.zero_row(here, -2)
    assert here.tolist() == [[1, 1], [0, 0], [1, 1]]
