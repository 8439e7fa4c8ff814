from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from torch import nn

from lightning_init import build_plan, init_weights
from lightning_init.garbage import uncollected
from tests.models import constant


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    gc.enable()


@uncollected()
def enabled_within(fails: bool = False) -> bool:
    if fails:
        raise ValueError("inside")
    return gc.isenabled()


def test_the_collector_is_held_back_and_then_as_before() -> None:
    assert enabled_within() is False
    assert gc.isenabled()
    with pytest.raises(ValueError, match="inside"):
        enabled_within(fails=True)
    assert gc.isenabled()


def test_who_has_turned_it_off_keeps_it_off() -> None:
    gc.disable()
    assert enabled_within() is False
    assert not gc.isenabled()


def test_it_runs_again_after_an_initialisation() -> None:
    build_plan(net := nn.Linear(1, 1), constant(1))
    assert gc.isenabled()
    init_weights(net, constant(1))
    assert gc.isenabled()
