"""The lives that a run on two ranks may have: fitted again, searched, averaged, tested before. Under DDP and sharded.

Some of Lightning's callbacks fail on sharded models by themselves. They are run without ours as well, so that it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, LearningRateFinder, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.tuner import Tuner
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException
from torch.utils.data import DataLoader

from lightning_init import InitWeightsCallback, init_weights
from tests.distributed.harness import run_ranks
from tests.distributed.models import Told, digests, loader, rules, told, trainer
from tests.distributed.sharded import whole
from tests.distributed.test_model_parallel import ShardedNet

SEED = 7

UNTOUCHED = ("plain.weight", "plain.bias")


class Living(ShardedNet):
    """Can be fitted twice, as Lightning asks for: its ``configure_model`` does nothing the second time."""

    batch_size = 2
    first: dict[str, str] | None = None

    def __init__(self, *, scheduled: bool = False) -> None:
        super().__init__(rules(), lr=0.25)
        self.scheduled = scheduled
        self.is_spread = False

    def configure_model(self) -> None:
        if not self.is_spread:
            super().configure_model()
            self.is_spread = self.device_mesh is not None

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        if not self.scheduled:
            return optimizer
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 100)]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(loader().dataset, batch_size=self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.train_dataloader()

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        # A search takes all other callbacks away, but not this.
        self.first = self.first or whole(self)

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self(batch[0])

    def test_step(self, batch: list[Tensor], index: int) -> None:
        self(batch[0])


class Seen(Callback):
    """The weights at every start of a training."""

    def __init__(self) -> None:
        self.starts: list[dict[str, str]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.starts.append(whole(pl_module))


def strategy(kind: str) -> Any:
    if kind == "ddp":
        return DDPStrategy(process_group_backend="gloo")
    data, tensor = {"fsdp2": (2, 1), "tensor": (1, 2)}[kind]
    return ModelParallelStrategy(data_parallel_size=data, tensor_parallel_size=tensor)


def made(kind: str, given: Sequence[Callback], folder: Path) -> tuple[Any, Seen]:
    seen = Seen()
    # FSDP2 cannot use again what it has gathered in inference mode.
    rest: dict[str, Any] = {"default_root_dir": folder, "inference_mode": False}
    return trainer(strategy=strategy(kind), devices=2, callbacks=[*given, seen], **rest), seen


def ours() -> InitWeightsCallback:
    return InitWeightsCallback(seed=SEED, log=())


def declared(found: dict[str, str] | None) -> dict[str, str]:
    assert found is not None
    return {name: bits for name, bits in found.items() if name not in UNTOUCHED}


# The lives. Each gives the weights before the first step, and what else there is to say.


def fitted_again(kind: str, same: bool, folder: Path) -> tuple[dict[str, str], bool, bool]:
    module = Living()
    run, seen = made(kind, [ours()], folder)
    run.fit(module)
    trained = whole(module)
    if same:
        run.fit_loop.epoch_loop.max_steps = 2
        again, later = run, seen
    else:
        again, later = made(kind, [InitWeightsCallback(seed=8, log=())], folder)
    again.fit(module)
    return declared(module.first), later.starts[-1] == trained, whole(module) != trained


def fitted_behind_a_test(kind: str, folder: Path) -> tuple[dict[str, str], bool]:
    # A test under DDP sends the weights of rank zero.
    torch.manual_seed(0)
    module = Living()
    run, _ = made(kind, [ours()], folder)
    before = digests(module)
    run.test(module, loader(), verbose=False)
    untouched = kind != "ddp" or digests(module) == before
    run.fit(module)
    return declared(module.first), untouched


def searched(kind: str, given: Callable[[], Sequence[Callback]], scheduled: bool, folder: Path) -> Any:
    run, seen = made(kind, given(), folder)
    module = Living(scheduled=scheduled)
    try:
        run.fit(module)
    except CheckpointException as error:
        # It is no `Exception`.
        raise RuntimeError(str(error)) from error
    return declared(module.first), declared(seen.starts[-1])


def tuned(kind: str, given: Callable[[], Sequence[Callback]], folder: Path) -> Any:
    run, seen = made(kind, given(), folder)
    module = Living(scheduled=True)
    Tuner(run).lr_find(module, min_lr=1e-3, max_lr=1e-2, num_training=3)
    run.fit(module)
    return declared(module.first), declared(seen.starts[-1])


def averaged(kind: str, given: Callable[[], Sequence[Callback]], folder: Path) -> Any:
    callbacks = given()
    run, _ = made(kind, callbacks, folder)
    averages: list[dict[str, str]] = []

    class Looking(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            (averaging,) = (callback for callback in callbacks if isinstance(callback, WeightAveraging))
            averages.append(whole(averaging._average_model.module))  # type: ignore[union-attr]

    run.callbacks.append(Looking())
    module = Living()
    run.fit(module)
    return declared(module.first), declared(averages[0])


def search() -> LearningRateFinder:
    return LearningRateFinder(min_lr=1e-3, max_lr=1e-2, num_training_steps=3)


def batches() -> BatchSizeFinder:
    return BatchSizeFinder(steps_per_trial=1, max_trials=2, init_val=1)


def alone(make: Callable[[], Callback]) -> list[Callback]:
    return [make()]


def behind(make: Callable[[], Callback]) -> list[Callback]:
    return [make(), ours()]


def before(make: Callable[[], Callback]) -> list[Callback]:
    return [ours(), make()]


def only_ours() -> list[Callback]:
    return [ours()]


def lives(folder: Path) -> dict[str, Told]:
    """Every life on this rank, one after the other."""
    cases: dict[str, Callable[[], Any]] = {}
    for kind in ("ddp", "fsdp2", "tensor"):
        for same in (False, True):
            cases[f"{kind}: again, {'same' if same else 'other'} Trainer"] = partial(fitted_again, kind, same, folder)
        cases[f"{kind}: behind a test"] = partial(fitted_behind_a_test, kind, folder)
    for kind in ("ddp", "fsdp2"):
        cases[f"{kind}: search"] = partial(searched, kind, partial(behind, search), True, folder)
        cases[f"{kind}: Tuner"] = partial(tuned, kind, only_ours, folder)
        for who in (alone, behind):
            cases[f"{kind}: batch size, {who.__name__}"] = partial(searched, kind, partial(who, batches), True, folder)
    for who in (alone, behind):
        cases[f"fsdp2: search without scheduler, {who.__name__}"] = partial(
            searched, "fsdp2", partial(who, search), False, folder
        )
        cases[f"fsdp2: average, {who.__name__}"] = partial(averaged, "fsdp2", partial(who, WeightAveraging), folder)
    for kind in ("ddp", "tensor"):
        for who in (behind, before):
            cases[f"{kind}: average, {who.__name__}"] = partial(averaged, kind, partial(who, WeightAveraging), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return {name: told(case) for name, case in cases.items()}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Told]]:
    return run_ranks(2, lives, tmp_path_factory.mktemp("lives"), process_group=False, deadline=110)


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    """The weights of a single process."""
    module = Living()
    init_weights(module, seed=SEED)
    return declared(digests(module))


def values(ranks: list[dict[str, Told]], case: str) -> list[Any]:
    found = [rank[case] for rank in ranks]
    assert not any(outcome.error for outcome in found), found
    return [outcome.value for outcome in found]


@pytest.mark.parametrize("kind", ["ddp", "fsdp2", "tensor"])
class TestEveryStrategy:
    @pytest.mark.parametrize("which", ["same", "other"])
    def test_a_second_fit_goes_on_from_what_was_trained(
        self, ranks: list[dict[str, Told]], expected: dict[str, str], kind: str, which: str
    ) -> None:
        for first, kept, trained in values(ranks, f"{kind}: again, {which} Trainer"):
            assert first == expected
            assert kept
            assert trained

    def test_a_test_leaves_weights_alone_and_the_fit_behind_it_does_not(
        self, ranks: list[dict[str, Told]], expected: dict[str, str], kind: str
    ) -> None:
        for first, untouched in values(ranks, f"{kind}: behind a test"):
            assert first == expected
            assert untouched


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
class TestSearches:
    @pytest.mark.parametrize("how", ["search", "Tuner"])
    def test_of_the_learning_rate_sees_and_leaves_the_declared_weights(
        self, ranks: list[dict[str, Told]], expected: dict[str, str], kind: str, how: str
    ) -> None:
        for searched_from, trained_from in values(ranks, f"{kind}: {how}"):
            assert searched_from == trained_from == expected

    def test_of_the_batch_size_lightning_refuses_with_and_without_us(
        self, ranks: list[dict[str, Told]], kind: str
    ) -> None:
        for rank in ranks:
            without, with_ours = (rank[f"{kind}: batch size, {who}"] for who in ("alone", "behind"))
            assert without.error == with_ours.error == "MisconfigurationException"
            assert without.message == with_ours.message
            assert "not supported with distributed strategies" in without.message


@pytest.mark.parametrize("kind", ["ddp", "tensor"])
@pytest.mark.parametrize("order", ["behind", "before"])
def test_an_average_starts_from_the_declared_weights(
    ranks: list[dict[str, Told]], expected: dict[str, str], kind: str, order: str
) -> None:
    for first, average in values(ranks, f"{kind}: average, {order}"):
        assert first == average == expected


class TestWhatLightningCannotDoByItself:
    """The same failure without our callback; whoever reads this after an update of Lightning may strike it out."""

    def test_an_average_of_an_fsdp2_model_which_cannot_be_copied(self, ranks: list[dict[str, Told]]) -> None:
        for rank in ranks:
            without, with_ours = (rank[f"fsdp2: average, {who}"] for who in ("alone", "behind"))
            assert without.error == with_ours.error == "AssertionError"
            assert without.message == with_ours.message
            assert "FSDP does not support deepcopy" in without.message

    def test_a_search_without_a_scheduler_whose_own_checkpoint_lacks_a_key(self, ranks: list[dict[str, Told]]) -> None:
        # Its scheduler adds `initial_lr` to the optimizer behind the checkpoint, and torch's loader then asks for it.
        for rank in ranks:
            without, with_ours = (rank[f"fsdp2: search without scheduler, {who}"] for who in ("alone", "behind"))
            assert without.error == with_ours.error == "RuntimeError"
            assert "Missing key in checkpoint state_dict: optimizer_0.param_groups.0.initial_lr" in without.message
            assert "initial_lr" in with_ours.message
