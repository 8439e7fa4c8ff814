"""What ranks tell each other, and that nobody waits for a rank that failed or went another way."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
import torch
import torch.distributed as dist

from lightning_init import init_weights
from lightning_init.distributed import agree, from_rank_zero, one_first, rank, together, world_size
from lightning_init.errors import CheckpointError, Fault, InitConfigError, InitError, RankError
from tests.distributed.harness import run_ranks
from tests.distributed.models import LitNet, Told, digests, told

PROMPTLY = 5.0
"""Seconds in which a failure has to reach every rank; a rank that waits would do so for half an hour."""


class OddError(InitError):
    """An error of a user, that cannot be made from faults."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__([Fault("odd", f"{first} and {second}")])


def fail(error: Exception) -> NoReturn:
    raise error


def on(ranks: set[int], error: Exception, otherwise: Any = None) -> Any:
    """Raises on some ranks."""
    return fail(error) if rank() in ranks else otherwise


def swallowing(run: Callable[[], object]) -> str:
    """Catches what this library raises, as the planner does that collects the faults of all checkpoints."""
    try:
        run()
    except InitError as error:
        return f"swallowed {error}"
    return "nothing to swallow"


# Rank zero leads.


def one_first_in_turn() -> tuple[float, float]:
    def step() -> tuple[float, float]:
        start = time.monotonic()
        time.sleep(0.3 if rank() < 2 else 0.0)  # the first rank of either node
        return start, time.monotonic()

    return one_first("a turn", step)


def one_first_of_each_node() -> tuple[float, float]:
    # Ranks 0 and 2 share a node, rank 1 has one of its own.
    os.environ["NODE_RANK"] = str(rank() % 2)
    try:
        return one_first_in_turn()
    finally:
        del os.environ["NODE_RANK"]


def threads_in_a_turn() -> tuple[int, int, int]:
    before = torch.get_num_threads()
    return before, one_first("a turn", torch.get_num_threads), torch.get_num_threads()


def a_node_leader_fails() -> tuple[str, bool]:
    os.environ["NODE_RANK"] = str(rank() % 2)
    ran: list[bool] = []

    def step() -> object:
        ran.append(True)
        return on({1}, CheckpointError("no space left on this node"))

    try:
        return told(lambda: one_first("a turn", step)).message, bool(ran)
    finally:
        del os.environ["NODE_RANK"]


def one_first_stops_the_others() -> tuple[str, bool]:
    ran: list[bool] = []

    def step() -> object:
        ran.append(True)
        return on({0}, CheckpointError("no such file"))

    return told(lambda: one_first("a turn", step)).message, bool(ran)


def a_follower_fails() -> object:
    return one_first("a turn", lambda: on({2}, CheckpointError([Fault("LitNet.init_cfg[1]", "no such file")])))


def a_value_from_rank_zero() -> tuple[object, bool]:
    ran: list[bool] = []

    def make() -> object:
        ran.append(True)
        return {"seed": 7, "shape": torch.Size([2, 3])}

    return from_rank_zero("a value", make), bool(ran)


def a_value_that_does_not_pickle() -> object:
    return from_rank_zero("a value", lambda: lambda: None)


def a_foreign_error_on_rank_zero() -> object:
    return from_rank_zero("a value", lambda: fail(ValueError("no seed here")))


# All at once.


def values_of_their_own() -> object:
    return together("work", lambda: together("part", lambda: 10 * rank()))


def the_same_error_everywhere() -> object:
    return together("work", lambda: fail(InitConfigError([Fault("a", "one"), Fault("b", "two")])))


def different_errors() -> object:
    errors = [CheckpointError("gone"), InitConfigError("misspelt"), CheckpointError("gone")]
    return together("work", lambda: fail(errors[rank()]))


def an_error_of_the_user() -> object:
    return together("work", lambda: on({1}, OddError(3, 4)))


def a_foreign_error_beside_one_of_ours() -> object:
    return together("work", lambda: fail(CheckpointError("gone") if rank() == 0 else ZeroDivisionError("by zero")))


# Exchanges in exchanges.


def failing_outside_while_others_wait_inside() -> object:
    def body() -> object:
        on({0}, InitConfigError("misspelt"))
        return one_first("opening", lambda: None)

    return together("the plan", body)


def swallowed_inside_and_gone_on() -> object:
    def body() -> object:
        on({1}, InitConfigError("misspelt"))
        for file in ("first", "second"):
            swallowing(lambda: one_first(f"opening {file}", lambda: None))  # noqa: B023  # called at once
        raise CheckpointError("what was swallowed, in other words")

    return together("the plan", body)


def foreign_inside_and_swallowed_elsewhere() -> object:
    def body() -> object:
        for file in ("first", "second"):
            swallowing(lambda: one_first(file, lambda: on({0}, ConnectionError("no route to host"))))  # noqa: B023  # called at once
        return "planned"

    return together("the plan", body)


def caught_by_all_it_is_over() -> object:
    def body() -> str:
        first = swallowing(lambda: one_first("opening", lambda: on({0}, CheckpointError("gone"))))
        return f"{first}, then {from_rank_zero('a value', lambda: 'went on')}"

    return together("the plan", body)


def an_old_error_raised_again() -> object:
    old = []
    try:
        together("work", lambda: on({0}, CheckpointError("gone")))
    except CheckpointError as error:
        old.append(error)
    return together("work again", lambda: on({1}, old[0]))


# Different ways.


def different_ways() -> object:
    return together("the plan", lambda: one_first("opening", lambda: None) if rank() == 1 else None)


def different_ways_and_swallowed() -> object:
    def body() -> str:
        return swallowing(lambda: one_first("opening", lambda: None)) if rank() == 1 else "without a checkpoint"

    return together("the plan", body)


def different_programs() -> None:
    if rank() == 2:
        from_rank_zero("the seed", lambda: 1)
    agree("the weights", {}, str)


# Agreement.


def agreement() -> None:
    agree("the weights", {"conv.weight": "ab", "fc.weight": "cd"}, "; ".join)


def disagreement() -> None:
    held = {"same": "x", "conv.weight": "ab" if rank() == 0 else "cd", "fc.weight": f"{rank() == 1}"}
    if rank() == 2:
        held["extra"] = "y"
    agree("the weights", held, "; ".join)


# All of it at work.


def weights() -> dict[str, str]:
    torch.manual_seed(rank())
    module = LitNet()
    init_weights(module, seed=5)
    return digests(module.noisy) | digests(module.head) | digests(module.tail)


CASES: tuple[Callable[[], object], ...] = (
    one_first_in_turn,
    one_first_of_each_node,
    a_node_leader_fails,
    threads_in_a_turn,
    one_first_stops_the_others,
    a_follower_fails,
    a_value_from_rank_zero,
    a_value_that_does_not_pickle,
    a_foreign_error_on_rank_zero,
    values_of_their_own,
    the_same_error_everywhere,
    different_errors,
    an_error_of_the_user,
    a_foreign_error_beside_one_of_ours,
    failing_outside_while_others_wait_inside,
    swallowed_inside_and_gone_on,
    foreign_inside_and_swallowed_elsewhere,
    caught_by_all_it_is_over,
    an_old_error_raised_again,
    different_ways,
    different_ways_and_swallowed,
    different_programs,
    agreement,
    disagreement,
    weights,
)


def run_cases() -> dict[str, Told]:
    """Every case on this rank, one after the other: after each the ranks have to be in step again."""
    found = {}
    for case in CASES:
        found[case.__name__] = told(case)
        names: list[str] = [""] * world_size()
        dist.all_gather_object(names, case.__name__)
        assert set(names) == {case.__name__}
    return found


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Told]]:
    """What every case came to, on each of three ranks."""
    ranks = run_ranks(3, run_cases, deadline=90)
    return {case.__name__: [of_rank[case.__name__] for of_rank in ranks] for case in CASES}


Cases = dict[str, list[Told]]


def errors(outcomes: list[Told]) -> list[tuple[str, str]]:
    """The class and the message on every rank."""
    assert all(outcome.seconds < PROMPTLY for outcome in outcomes), outcomes
    return [(outcome.error, outcome.message) for outcome in outcomes]


def test_one_first_lets_rank_zero_finish_before_the_others_start(cases: Cases) -> None:
    zero, *others = (outcome.value for outcome in cases["one_first_in_turn"])
    assert zero[1] - zero[0] >= 0.3
    assert all(start > zero[1] for start, _ in others)


def test_on_other_nodes_one_rank_goes_before_its_neighbours(cases: Cases) -> None:
    zero, leader, follower = (outcome.value for outcome in cases["one_first_of_each_node"])
    assert leader[0] > zero[1]
    assert follower[0] > leader[1]
    assert leader[1] - leader[0] >= 0.3


def test_a_rank_may_use_the_cores_of_those_that_wait(cases: Cases) -> None:
    cores = len(os.sched_getaffinity(0))
    told = [outcome.value for outcome in cases["threads_in_a_turn"]]
    assert told == [(1, cores, 1), (1, max(1, cores // 2), 1), (1, max(1, cores // 2), 1)]


def test_what_fails_on_the_first_rank_of_a_node_is_raised_everywhere(cases: Cases) -> None:
    told = "no space left on this node [on rank 1]"
    assert [outcome.value for outcome in cases["a_node_leader_fails"]] == [(told, True), (told, True), (told, False)]


def test_one_first_does_not_start_the_others_when_rank_zero_fails(cases: Cases) -> None:
    told = "no such file [on rank 0]"
    assert [outcome.value for outcome in cases["one_first_stops_the_others"]] == [
        (told, True),
        (told, False),
        (told, False),
    ]


def test_an_error_of_ours_keeps_its_class_and_its_place_and_names_its_rank(cases: Cases) -> None:
    told = ("CheckpointError", "LitNet.init_cfg[1]: no such file [on rank 2]")
    assert errors(cases["a_follower_fails"]) == [told] * 3


def test_a_value_of_rank_zero_reaches_all_and_is_made_once(cases: Cases) -> None:
    value = {"seed": 7, "shape": torch.Size([2, 3])}
    assert [outcome.value for outcome in cases["a_value_from_rank_zero"]] == [
        (value, True),
        (value, False),
        (value, False),
    ]


def test_a_value_that_does_not_pickle_is_an_error_on_every_rank(cases: Cases) -> None:
    zero, *others = errors(cases["a_value_that_does_not_pickle"])
    assert "pickle" in zero[1]
    for kind, message in others:
        assert kind == "RankError"
        assert message.startswith(f"rank 0 failed in 'a value': {zero[0]}: {zero[1]}\n")


def test_a_foreign_error_stays_itself_and_comes_with_its_traceback_elsewhere(cases: Cases) -> None:
    zero, *others = errors(cases["a_foreign_error_on_rank_zero"])
    assert zero == ("ValueError", "no seed here")
    for kind, message in others:
        assert kind == "RankError"
        assert message.startswith("rank 0 failed in 'a value': ValueError: no seed here\nTraceback (most recent")
        assert "in fail\n" in message


def test_every_rank_gets_its_own_value(cases: Cases) -> None:
    assert [outcome.value for outcome in cases["values_of_their_own"]] == [0, 10, 20]


def test_an_error_that_all_ranks_raise_is_told_once_and_as_it_is(cases: Cases) -> None:
    told = "2 faults in the init config:\n  - a: one\n  - b: two"
    assert errors(cases["the_same_error_everywhere"]) == [("InitConfigError", told)] * 3


def test_different_errors_are_told_together_and_alike_on_every_rank(cases: Cases) -> None:
    told = "2 faults in the init config:\n  - gone [on ranks 0, 2]\n  - misspelt [on rank 1]"
    assert errors(cases["different_errors"]) == [("InitConfigError", told)] * 3


def test_an_error_class_of_the_user_arrives_as_the_nearest_of_ours(cases: Cases) -> None:
    told = ("InitError", "odd: 3 and 4 [on rank 1]")
    assert errors(cases["an_error_of_the_user"]) == [told] * 3


def test_a_foreign_error_counts_more_than_one_of_ours(cases: Cases) -> None:
    zero, one, two = errors(cases["a_foreign_error_beside_one_of_ours"])
    assert zero[0] == "RankError"
    assert zero[1].startswith("rank 1 failed in 'work': ZeroDivisionError: by zero\n")
    assert one == two == ("ZeroDivisionError", "by zero")


def test_a_failure_outside_reaches_those_who_wait_inside(cases: Cases) -> None:
    told = ("InitConfigError", "misspelt [on rank 0]")
    assert errors(cases["failing_outside_while_others_wait_inside"]) == [told] * 3


def test_catching_an_error_of_lost_ranks_does_not_leave_anybody_waiting(cases: Cases) -> None:
    told = ("InitConfigError", "misspelt [on rank 1]")
    assert errors(cases["swallowed_inside_and_gone_on"]) == [told] * 3


def test_a_foreign_error_inside_ends_the_outermost_exchange_though_others_catch_it(cases: Cases) -> None:
    zero, *others = errors(cases["foreign_inside_and_swallowed_elsewhere"])
    assert zero == ("ConnectionError", "no route to host")
    for kind, message in others:
        assert kind == "RankError"
        assert message.startswith("rank 0 failed in 'the plan': ConnectionError: no route to host\n")


def test_an_error_that_all_ranks_catch_is_over(cases: Cases) -> None:
    told = "swallowed gone [on rank 0], then went on"
    assert [outcome.value for outcome in cases["caught_by_all_it_is_over"]] == [told] * 3


def test_an_error_that_was_caught_can_be_raised_again_later(cases: Cases) -> None:
    told = ("CheckpointError", "gone [on rank 0] [on rank 1]")
    assert errors(cases["an_old_error_raised_again"]) == [told] * 3


@pytest.mark.parametrize("case", ["different_ways", "different_ways_and_swallowed"])
def test_ranks_that_take_different_ways_are_told_which(cases: Cases, case: str) -> None:
    ((kind, message),) = set(errors(cases[case]))
    assert kind == "RankError"
    assert "rank 0 at 'the plan', rank 1 at 'opening' of 'the plan', rank 2 at 'the plan'" in message


def test_ranks_in_different_programs_are_told_so(cases: Cases) -> None:
    ((kind, message),) = set(errors(cases["different_programs"]))
    assert kind == "RankError"
    assert "rank 0 at 'the weights', rank 1 at 'the weights', rank 2 at 'the seed'" in message


def test_agreement_is_silent(cases: Cases) -> None:
    assert errors(cases["agreement"]) == [("", "")] * 3


def test_disagreement_names_what_differs_and_where(cases: Cases) -> None:
    told = "conv.weight (ranks 1, 2 against rank 0); fc.weight (rank 1 against rank 0); extra (rank 2 against rank 0)"
    assert errors(cases["disagreement"]) == [("RankError", told)] * 3


def test_three_ranks_and_one_make_equal_weights(cases: Cases) -> None:
    assert [outcome.value for outcome in cases["weights"]] == [weights()] * 3


@pytest.mark.parametrize(
    "error",
    [
        InitError("one"),
        InitConfigError([Fault("a.b", "one"), Fault("", "two")]),
        CheckpointError([Fault("checkpoint", "gone")]),
        RankError("lost"),
    ],
)
def test_errors_pickle(error: InitError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
    assert (type(copy), copy.faults, str(copy)) == (type(error), error.faults, str(error))


def test_in_a_single_process_everything_runs_as_it_is() -> None:
    assert (rank(), world_size()) == (0, 1)
    for exchange in (together, one_first, from_rank_zero):
        made: Callable[[], int] = exchange("work", lambda: lambda: 3)  # it would not pickle
        assert made() == 3
        error = ValueError("mine")
        with pytest.raises(ValueError, match="mine") as info:
            exchange("work", lambda: fail(error))  # noqa: B023  # called at once
        assert info.value is error
    agree("the weights", {"a": "b"}, str)
