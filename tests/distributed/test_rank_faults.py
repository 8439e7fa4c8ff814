"""What one rank does wrong ends all of them, promptly and with its reason, and they can go on afterwards."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from lightning_init import INITIALIZERS, BaseModule, InitWarning, InitWeightsCallback, init_weights
from lightning_init.checkpoint.sources.registry import SOURCES, register_source
from lightning_init.distributed import rank
from lightning_init.initializers.base import Fans, TensorInitializer
from tests.distributed.harness import run_ranks
from tests.distributed.models import LitNet, RecordingDDP, Told, digests, fit, told

PROMPTLY = 10.0
"""Seconds in which every rank has to end; one that waits would do so for half an hour."""


def fit_on_two(init_cfg: Any, module: LitNet | None = None, **arguments: Any) -> None:
    """A fit that is to fail before anything is written."""
    module = module or LitNet()
    module.init_cfg = init_cfg
    before = digests(module)
    strategy = RecordingDDP(process_group_backend="gloo")
    try:
        fit(module, InitWeightsCallback(**{"log": (), "seed": 5, **arguments}), strategy, 2)
    finally:
        # A checkpoint's error is held until DDP has sent the weights of rank zero.
        assert vars(strategy).get("before", digests(module)) == before
        assert "setup" not in vars(module)
        assert "configure_model" not in vars(module)


def normal(**arguments: Any) -> dict[str, Any]:
    return {"type": "Normal", "layer": "Linear", **arguments}


def pretrained(checkpoint: Path | str, **arguments: Any) -> dict[str, Any]:
    return {"type": "Pretrained", "checkpoint": str(checkpoint), **arguments}


def mine(zero: Any, one: Any) -> Any:
    """What this rank holds."""
    return (zero, one)[rank()]


# Checkpoints.


def missing_everywhere(folder: Path) -> None:
    fit_on_two([normal(), pretrained(folder / "nowhere.pth")])


def missing_everywhere_without_a_trainer(folder: Path) -> None:
    init_weights(LitNet([pretrained(folder / "nowhere.pth")]))


def missing_everywhere_under_broadcast(folder: Path) -> None:
    fit_on_two([pretrained(folder / "nowhere.pth")], sync="broadcast")


def missing_on_rank_zero(folder: Path) -> None:
    """The text of both configs is the same: the name leads to a folder of each rank's own."""
    fit_on_two([pretrained(f"of-rank://{folder / 'one'}")])


def missing_on_rank_one(folder: Path) -> None:
    fit_on_two([pretrained(f"of-rank://{folder / 'zero'}")])


def another_file_on_rank_one(folder: Path) -> None:
    fit_on_two([pretrained(f"of-rank://{folder / 'both'}")])


def other_values_on_rank_one(folder: Path) -> None:
    init_weights(LitNet([pretrained(f"of-rank://{folder / 'values'}")]))


def no_network_on_rank_zero(folder: Path) -> None:
    fit_on_two([pretrained("no-network://w.pth"), pretrained("no-network://v.pth")])


def no_rule_for_it_on_rank_one(folder: Path) -> None:
    load = pretrained(folder / "both" / "0.pth")
    fit_on_two(mine([normal(), load], [normal()]))


def a_second_one_on_rank_zero(folder: Path) -> None:
    load = pretrained(folder / "both" / "0.pth")
    fit_on_two(mine([load, pretrained(folder / "both" / "1.pth")], [load]))


def another_sync_on_rank_one(folder: Path) -> None:
    fit_on_two([pretrained(folder / "both" / "0.pth")], sync=mine("rank_zero_first", "broadcast"))


# Configs and models.


def a_misspelt_config_on_rank_one(folder: Path) -> None:
    fit_on_two([mine(normal(std=0.1), normal(sdt=0.1))])


def another_config_on_rank_one(folder: Path) -> None:
    fit_on_two([{"type": "Kaiming", "layer": "Conv1d"}, {"type": "Normal", "name": "head", "std": mine(0.1, 0.2)}])


def another_model_on_rank_one(folder: Path) -> None:
    module = LitNet()
    if rank() == 1:
        module.head = nn.Linear(24, 7)
        module.more = nn.Linear(1, 1)
    fit_on_two([normal()], module)


def another_seed_on_rank_one(folder: Path) -> None:
    fit_on_two([normal()], seed=mine(5, 6))


def another_number_of_threads_on_rank_one(folder: Path) -> None:
    init_weights(LitNet(), [normal()], seed=0, threads=mine(1, 2))


def initialised_on_rank_one_already(folder: Path) -> None:
    module = LitNet()
    if rank() == 1:
        module.is_init = True  # type: ignore[assignment]  # a plain attribute
    fit_on_two([normal()], module)


def initialised_on_rank_zero_already_without_a_trainer(folder: Path) -> None:
    module = BaseModule(normal())
    module.is_init = rank() == 0
    module.init_weights()


def a_warning_that_is_an_error(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", InitWarning)
        fit_on_two([normal(layer="Linaer")])


@INITIALIZERS.register("NanOnRankForTests")
@dataclass(frozen=True)
class NanOnRankInit(TensorInitializer):
    """Writes NaN on some ranks."""

    ranks: Sequence[int] = ()

    def fill(self, tensor: torch.Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:
        nn.init.constant_(tensor, 0.5)
        if rank() in self.ranks:
            tensor[..., -1] = torch.nan


def a_nan_on_rank_one(folder: Path) -> None:
    init_weights(LitNet([{"type": "NanOnRankForTests", "layer": "Linear", "ranks": [1]}]))


def a_nan_everywhere(folder: Path) -> None:
    init_weights(LitNet([{"type": "NanOnRankForTests", "name": "head", "ranks": [0, 1]}]))


# Code of the user. It has written by then, so the weights are not looked at.


class Method(nn.Module):
    """A module whose method is given."""

    def __init__(self, method: Callable[[torch.Tensor], None]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.same = nn.Parameter(torch.zeros(3))
        self.method = method

    def init_weights(self) -> None:
        nn.init.normal_(self.same)
        self.method(self.weight)


def fit_with(method: Callable[[torch.Tensor], None]) -> None:
    module = LitNet([normal()])
    module.more = Method(method)
    fit(module, InitWeightsCallback(seed=5, log=()), RecordingDDP(process_group_backend="gloo"), 2)


def _fail_on(failing: int, weight: torch.Tensor) -> None:
    if rank() == failing:
        raise ZeroDivisionError("by zero")


def code_that_fails_on_rank_zero(folder: Path) -> None:
    fit_with(partial(_fail_on, 0))


def code_that_fails_on_rank_one(folder: Path) -> None:
    fit_with(partial(_fail_on, 1))


class FailingHook(LitNet):
    """A hook of the user's fails on rank one."""

    def __init__(self, hook: str) -> None:
        super().__init__([normal()])
        self.hook = hook

    def _reach(self, hook: str) -> None:
        if self.hook == hook and rank() == 1:
            raise ZeroDivisionError("by zero")

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self._reach("setup")

    def configure_model(self) -> None:
        self._reach("configure_model")


def a_setup_that_fails_on_rank_one(folder: Path) -> None:
    fit(FailingHook("setup"), InitWeightsCallback(seed=5, log=()), RecordingDDP(process_group_backend="gloo"), 2)


def a_configure_model_that_fails_on_rank_one(folder: Path) -> None:
    module = FailingHook("configure_model")
    fit(module, InitWeightsCallback(seed=5, log=()), RecordingDDP(process_group_backend="gloo"), 2)


def _fill_with_rank(weight: torch.Tensor) -> None:
    nn.init.constant_(weight, float(rank()))


def code_that_looks_at_the_rank(folder: Path) -> None:
    fit_with(_fill_with_rank)


def _fill_on_rank_one(weight: torch.Tensor) -> None:
    if rank() == 1:
        nn.init.constant_(weight, 3.0)


def code_that_writes_on_one_rank_only(folder: Path) -> None:
    fit_with(_fill_on_rank_one)


class Closed:
    """A standard output that nobody reads any more."""

    def isatty(self) -> bool:
        return False

    def flush(self) -> None:
        pass

    def write(self, text: str) -> int:
        raise BrokenPipeError("nobody listens")


def a_console_that_is_gone_on_rank_zero(folder: Path) -> None:
    before = sys.stdout
    if rank() == 0:
        sys.stdout = Closed()
    try:
        fit(LitNet(), InitWeightsCallback(seed=5, log="table"), RecordingDDP(process_group_backend="gloo"), 2)
    finally:
        sys.stdout = before


CASES: tuple[Callable[[Path], None], ...] = (
    missing_everywhere,
    missing_everywhere_without_a_trainer,
    missing_everywhere_under_broadcast,
    missing_on_rank_zero,
    missing_on_rank_one,
    another_file_on_rank_one,
    other_values_on_rank_one,
    no_network_on_rank_zero,
    no_rule_for_it_on_rank_one,
    a_second_one_on_rank_zero,
    another_sync_on_rank_one,
    a_misspelt_config_on_rank_one,
    another_config_on_rank_one,
    another_model_on_rank_one,
    another_seed_on_rank_one,
    another_number_of_threads_on_rank_one,
    initialised_on_rank_one_already,
    initialised_on_rank_zero_already_without_a_trainer,
    a_warning_that_is_an_error,
    a_nan_on_rank_one,
    a_nan_everywhere,
    code_that_fails_on_rank_zero,
    code_that_fails_on_rank_one,
    a_setup_that_fails_on_rank_one,
    a_configure_model_that_fails_on_rank_one,
    code_that_looks_at_the_rank,
    code_that_writes_on_one_rank_only,
    a_console_that_is_gone_on_rank_zero,
)


def _in_a_folder_of_its_own(address: str, _sha256: str | None) -> Path:
    return Path(address.removeprefix("of-rank://")) / f"{rank()}.pth"


def _without_network(address: str, _sha256: str | None) -> Path:
    if rank() == 0:
        raise ConnectionError("no route to host")
    return Path(address)


def run_cases(folder: Path) -> tuple[dict[str, Told], dict[str, str]]:
    """Every case on this rank, one after the other, and then a fit that goes well."""
    register_source("of-rank")(_in_a_folder_of_its_own)
    register_source("no-network")(_without_network)
    assert {"of-rank", "no-network"} <= set(SOURCES)
    found = {}
    for case in CASES:
        found[case.__name__] = told(partial(case, folder))
        names: list[str] = ["", ""]
        dist.all_gather_object(names, case.__name__)
        assert set(names) == {case.__name__}
    module = LitNet([normal()])
    strategy = RecordingDDP(process_group_backend="gloo")
    fit(module, InitWeightsCallback(seed=5, log=()), strategy, 2)
    return found, strategy.before


Cases = dict[str, list[Told]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Told], dict[str, str]]]:
    """What every case came to, in one pair of processes that lives through all of them."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, held in (("zero", (0,)), ("one", (1,)), ("both", (0, 1))):
        (folder / name).mkdir()
        for i in held:
            torch.save({"head.bias": torch.zeros(6 + i)}, folder / name / f"{i}.pth")
    (folder / "values").mkdir()
    for i in range(2):
        torch.save({"head.bias": torch.full((6,), float(i))}, folder / "values" / f"{i}.pth")
    return run_ranks(2, run_cases, folder, deadline=110)


@pytest.fixture(scope="module")
def cases(ranks: list[tuple[dict[str, Told], dict[str, str]]]) -> Cases:
    return {case.__name__: [found[case.__name__] for found, _ in ranks] for case in CASES}


def failed(outcomes: list[Told]) -> list[tuple[str, str]]:
    """The class and the message on every rank."""
    assert all(outcome.seconds < PROMPTLY for outcome in outcomes), outcomes
    return [(outcome.error, outcome.message) for outcome in outcomes]


def failed_alike(outcomes: list[Told], kind: str) -> str:
    """The message, which is the same on both ranks."""
    zero, one = failed(outcomes)
    assert zero == one
    assert zero[0] == kind, zero
    return zero[1]


@pytest.mark.parametrize(
    "case",
    ["missing_everywhere", "missing_everywhere_without_a_trainer", "missing_everywhere_under_broadcast"],
)
def test_a_missing_file_ends_every_rank_with_the_same_message(cases: Cases, case: str) -> None:
    message = failed_alike(cases[case], "CheckpointError")
    assert message.startswith(f"LitNet.init_cfg[{int(case == 'missing_everywhere')}].checkpoint: no such file: '/")
    assert "nowhere.pth'" in message
    assert message.endswith("[on rank 0]")


@pytest.mark.parametrize("which", [0, 1])
def test_a_file_that_is_missing_on_one_rank_ends_all(cases: Cases, which: int) -> None:
    message = failed_alike(cases[f"missing_on_rank_{('zero', 'one')[which]}"], "CheckpointError")
    assert "no such file: 'of-rank:///" in message
    assert message.endswith(f"[on rank {which}]")


def test_a_file_that_does_not_fit_on_one_rank_ends_all(cases: Cases) -> None:
    message = failed_alike(cases["another_file_on_rank_one"], "CheckpointError")
    assert "head.bias" in message
    assert message.endswith("[on rank 1]")


def test_values_that_differ_are_told_with_the_parameter(cases: Cases) -> None:
    message = failed_alike(cases["other_values_on_rank_one"], "RankError")
    assert "different weights after the initialisation: head.bias (rank 1 against rank 0);" in message


def test_a_source_that_raises_an_error_of_its_own_ends_all(cases: Cases) -> None:
    zero, one = failed(cases["no_network_on_rank_zero"])
    assert zero == ("ConnectionError", "no route to host")
    assert one[0] == "RankError"
    assert one[1].startswith("rank 0 failed in 'the plan': ConnectionError: no route to host\nTraceback")
    assert "in _without_network" in one[1]


def test_a_checkpoint_that_one_rank_does_not_read_is_named(cases: Cases) -> None:
    message = failed_alike(cases["no_rule_for_it_on_rank_one"], "RankError")
    assert "both/0.pth' of 'the plan', rank 1 at 'the plan'" in message
    message = failed_alike(cases["a_second_one_on_rank_zero"], "RankError")
    assert "both/1.pth' of 'the plan', rank 1 at 'the plan'" in message


def test_ranks_that_read_in_different_manners_are_told_so(cases: Cases) -> None:
    assert "take different ways" in failed_alike(cases["another_sync_on_rank_one"], "RankError")


def test_a_fault_in_the_config_of_one_rank_is_told_on_all(cases: Cases) -> None:
    message = failed_alike(cases["a_misspelt_config_on_rank_one"], "InitConfigError")
    assert message.startswith("LitNet.init_cfg[0].sdt: ")
    assert message.endswith("[on rank 1]")


def test_another_config_is_told_with_the_parameters_that_it_concerns(cases: Cases) -> None:
    message = failed_alike(cases["another_config_on_rank_one"], "RankError")
    assert "differs between ranks for head.weight (rank 1 against rank 0); give" in message


def test_another_model_is_told_with_the_parameters_that_differ(cases: Cases) -> None:
    message = failed_alike(cases["another_model_on_rank_one"], "RankError")
    for name in ("head.weight", "head.bias", "more.weight", "more.bias"):
        assert f"{name} (rank 1 against rank 0)" in message
    assert "conv" not in message


def test_another_seed_is_named(cases: Cases) -> None:
    assert "for the argument 'seed' (rank 1 against rank 0);" in failed_alike(
        cases["another_seed_on_rank_one"], "RankError"
    )


def test_another_number_of_threads_is_no_fault(cases: Cases) -> None:
    assert [error for error, _ in failed(cases["another_number_of_threads_on_rank_one"])] == ["", ""]


@pytest.mark.parametrize(
    ("case", "initialised"),
    [("initialised_on_rank_one_already", 1), ("initialised_on_rank_zero_already_without_a_trainer", 0)],
)
def test_a_rank_that_is_initialised_already_is_named(cases: Cases, case: str, initialised: int) -> None:
    message = failed_alike(cases[case], "RankError")
    assert f"rank {initialised} at 'nothing, since is_init is True'" in message


def test_a_warning_that_is_an_error_on_rank_zero_ends_all(cases: Cases) -> None:
    zero, one = failed(cases["a_warning_that_is_an_error"])
    assert zero[0] == "InitWarning"
    assert one[0] == "RankError"
    assert f"InitWarning: {zero[1]}" in one[1]


def test_a_nan_is_told_with_the_rule_that_wrote_it_and_the_rank(cases: Cases) -> None:
    message = failed_alike(cases["a_nan_on_rank_one"], "InitConfigError")
    assert message == "LitNet.init_cfg[0]: NanOnRankForTests(ranks=[1]) wrote NaN into 'head.weight' [on rank 1]"
    message = failed_alike(cases["a_nan_everywhere"], "InitConfigError")
    assert message == "LitNet.init_cfg[0]: NanOnRankForTests(ranks=[0, 1]) wrote NaN into 'head.weight'"


@pytest.mark.parametrize("which", [0, 1])
def test_code_of_the_user_that_fails_on_one_rank_ends_all(cases: Cases, which: int) -> None:
    outcomes = failed(cases[f"code_that_fails_on_rank_{('zero', 'one')[which]}"])
    assert outcomes[which] == ("ZeroDivisionError", "by zero")
    kind, message = outcomes[1 - which]
    assert kind == "RankError"
    assert message.startswith(f"rank {which} failed in 'the initialisation': ZeroDivisionError: by zero\nTraceback")
    assert "in _fail_on" in message


@pytest.mark.parametrize("hook", ["setup", "configure_model"])
def test_a_hook_of_the_user_that_fails_on_one_rank_ends_all(cases: Cases, hook: str) -> None:
    zero, one = failed(cases[f"a_{hook}_that_fails_on_rank_one"])
    assert one == ("ZeroDivisionError", "by zero")
    assert zero[0] == "RankError"
    assert zero[1].startswith(f"rank 1 failed in 'LightningModule.{hook}': ZeroDivisionError: by zero")


@pytest.mark.parametrize("case", ["code_that_looks_at_the_rank", "code_that_writes_on_one_rank_only"])
def test_a_weight_that_differs_is_named(cases: Cases, case: str) -> None:
    message = failed_alike(cases[case], "RankError")
    assert "different weights after the initialisation: more.weight (rank 1 against rank 0); an init_weights" in message


def test_a_console_that_is_gone_ends_all(cases: Cases) -> None:
    zero, one = failed(cases["a_console_that_is_gone_on_rank_zero"])
    assert zero == ("BrokenPipeError", "nobody listens")
    assert one[0] == "RankError"
    assert "BrokenPipeError: nobody listens" in one[1]


def test_the_ranks_are_in_step_afterwards(ranks: list[tuple[dict[str, Told], dict[str, str]]]) -> None:
    module = LitNet([normal()])
    init_weights(module, seed=5)
    expected = digests(module)
    for _, found in ranks:
        # No rule writes the convolution, and nobody seeded its constructor.
        assert found.items() >= {(name, bits) for name, bits in expected.items() if "conv" not in name}
