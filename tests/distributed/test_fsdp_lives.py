"""The lives that a run under ``FSDPStrategy`` may have, on CPUs: fitted again, tested before, searched, tied.

Lightning fails in some of them by itself. They are run without our callback as well, so that it shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from torch import Tensor, nn

from lightning_init import InitWeightsCallback
from tests.distributed.harness import run_ranks
from tests.distributed.models import loader, rules, told, trainer
from tests.distributed.test_fsdp import SEED, UNITS, FlatNet, Seen, fitted, run, whole
from tests.distributed.writers import CpuFSDP


class Units(FlatNet):
    """Each of its parameters is in a unit that it has wrapped itself, once."""

    is_wrapped = False

    def __init__(self) -> None:
        super().__init__(rules()[:2], lr=0.1)
        del self.twin, self.token
        self.token = 0.0  # type: ignore[assignment]  # no parameter

    def configure_model(self) -> None:
        if not self.is_wrapped:
            self.wraps = ("conv", "head", "noisy", "tail", "plain", "norm")
            super().configure_model()
        self.is_wrapped = True

    def test_step(self, batch: list[Tensor], index: int) -> None:
        self(batch[0])


class Unwrapped(FlatNet):
    """FSDP wraps it as a whole."""

    test_step = Units.test_step


class Watching(FlatNet):
    """Looks at its weights before the first step of all: a search takes all other callbacks away."""

    first: dict[str, str] | None = None

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        assert self.trainer.model is not None
        self.first = self.first or whole(self.trainer.model)


def behind_a_test(module: Any) -> dict[str, str]:
    seen = Seen()
    made = trainer(strategy=CpuFSDP(), devices=2, callbacks=[seen, InitWeightsCallback(seed=SEED, log=())])
    made.test(module, loader(), verbose=False)
    made.fit(module, loader())
    return seen.weights


def searched(folder: Path, *, ours: bool = True, on_meta: bool = False) -> tuple[str, dict[str, str] | None]:
    """How a search ended, and what it saw."""
    mine = [InitWeightsCallback(seed=SEED, log=())] if ours else []
    search = LearningRateFinder(min_lr=1e-3, max_lr=1e-2, num_training_steps=3)
    rest: dict[str, Any] = {"callbacks": [search, *mine], "default_root_dir": folder}
    torch.manual_seed(3)
    module = Watching(on_meta=on_meta, lr=0.1)
    outcome = told(lambda: trainer(strategy=CpuFSDP(**UNITS), devices=2, **rest).fit(module, loader()))
    return f"{outcome.error}: {outcome.message}", module.first


def again(module: FlatNet, *, same: bool = False, ours: bool = True) -> tuple[bool, bool]:
    """Whether a second fit starts from what was trained, and trains."""
    seen = Seen()
    first, second = ([InitWeightsCallback(seed=seed, log=())] if ours else [] for seed in (7, 8))
    made: Any = trainer(strategy=CpuFSDP(), devices=2, callbacks=[seen, *first])
    made.fit(module, loader())
    trained = whole(made.strategy.model)
    if same:
        made.fit_loop.epoch_loop.max_steps = 2
    else:
        made = trainer(strategy=CpuFSDP(), devices=2, callbacks=[seen, *second])
    made.fit(module, loader())
    return seen.weights == trained, whole(made.strategy.model) != trained


def of_all(folder: Path) -> dict[str, Any]:
    return {
        "other Trainer": told(lambda: again(Units())),
        "same Trainer": told(lambda: again(Units(), same=True)),
        "flattened": told(lambda: again(FlatNet())),
        "flattened, without ours": told(lambda: again(FlatNet(), ours=False)),
        "behind a test": told(lambda: behind_a_test(Units())),
        "flattened in a test": told(lambda: behind_a_test(Unwrapped())),
        "search without ours": searched(folder, ours=False),
        "searches": {on_meta: searched(folder, on_meta=on_meta) for on_meta in (False, True)},
        "tied": told(lambda: run(FlatNet(), CpuFSDP(auto_wrap_policy={nn.Linear}))),
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two ranks saw."""
    return run_ranks(2, of_all, tmp_path_factory.mktemp("lives"), process_group=False, deadline=120)


@pytest.fixture(scope="module")
def alone() -> dict[bool, dict[str, str]]:
    """The weights of a single process, of a model that was built on ``meta`` or not."""
    return {on_meta: fitted("auto", on_meta=on_meta)[0] for on_meta in (False, True)}


def test_a_second_fit_goes_on_where_all_is_in_units_of_the_module(found: list[dict[str, Any]]) -> None:
    """Elsewhere Lightning wraps what is flat already, with and without the callback."""
    for of_rank in found:
        assert of_rank["other Trainer"].value == of_rank["same Trainer"].value == (True, True), of_rank
        theirs = of_rank["flattened, without ours"]
        assert theirs.error == "RuntimeError"
        assert (of_rank["flattened"].error, of_rank["flattened"].message) == (theirs.error, theirs.message)


def test_a_fit_behind_a_test(found: list[dict[str, Any]], alone: dict[bool, dict[str, str]]) -> None:
    for of_rank in found:
        assert of_rank["behind a test"].value["conv.weight"] == alone[False]["conv.weight"]
        flattened = of_rank["flattened in a test"]
        assert flattened.error == "InitError"
        assert "a new module, where FSDPStrategy has wrapped this one in a run before" in flattened.message


def test_a_search_sees_the_declared_weights(found: list[dict[str, Any]], alone: dict[bool, dict[str, str]]) -> None:
    """Behind it Lightning fails to restore what it saved under FSDP1 before, with and without the callback."""
    for of_rank in found:
        for on_meta, weights in alone.items():
            error, seen = of_rank["searches"][on_meta]
            assert error == of_rank["search without ours"][0] != ": "
            assert seen == weights


def test_a_tie_across_units_is_told_by_its_name(found: list[dict[str, Any]]) -> None:
    for of_rank in found:
        assert of_rank["tied"].error == "InitError"
        assert of_rank["tied"].message.startswith("twin.weight: is a part of a flat parameter of FSDP1")
