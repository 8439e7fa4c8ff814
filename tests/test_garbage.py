from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

import pytest
from torch import nn

from lightning_init import BaseModule, NormalInit, build_plan, init_weights, initialize
from lightning_init.garbage import uncollected
from lightning_init.initializers.laws import Law
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


class Curious(nn.Linear):
    """Its method notes whether the collector runs."""

    runs: bool | None = None

    def init_weights(self) -> None:
        self.runs = gc.isenabled()


@pytest.mark.parametrize("runs", [True, False])
def test_a_method_finds_it_as_its_caller_does(runs: bool) -> None:
    if not runs:
        gc.disable()
    init_weights(net := Curious(1, 1))
    assert net.runs is runs
    assert gc.isenabled() is runs


class Outer(BaseModule):
    """Its method has parts of it initialised, and notes whether the collector runs before, between and behind."""

    def __init__(self) -> None:
        super().__init__(constant(1))
        self.child = Curious(1, 1)
        self.runs: list[bool] = []

    def init_weights(self) -> None:
        self.runs.append(gc.isenabled())
        super().init_weights()
        self.runs.append(gc.isenabled())
        init_weights(Curious(1, 1))
        self.runs.append(gc.isenabled())


@pytest.mark.parametrize("runs", [True, False])
def test_a_method_around_others_finds_it_so_to_its_end(runs: bool) -> None:
    if not runs:
        gc.disable()
    init_weights(net := Outer())
    assert [*net.runs, net.child.runs, gc.isenabled()] == 5 * [runs]


def test_while_nothing_else_runs_it_does_not() -> None:
    class Noting(NormalInit):
        def expected(self, shape: Sequence[int]) -> Law:
            found.append(gc.isenabled())
            return super().expected(shape)

    found: list[bool] = []
    initialize(nn.Linear(1, 1), Noting(layer="Linear"))
    assert set(found) == {False}


def test_it_runs_again_after_an_initialisation() -> None:
    build_plan(net := nn.Linear(1, 1), constant(1))
    assert gc.isenabled()
    init_weights(net, constant(1))
    assert gc.isenabled()
