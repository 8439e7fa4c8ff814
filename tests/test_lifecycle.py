"""When the callback initialises and when it must not: resuming, refitting, evaluating, averaging, failing."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EMAWeightAveraging,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.tuner import Tuner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_init import CheckpointError, InitConfigError, InitWeightsCallback
from tests.models import constant, linear, values
from tests.trainers import Net, Snapshots, loader, trainer, weights

Fit = Callable[[pl.Trainer, pl.LightningModule], object]


def filled(module: nn.Module, value: float) -> nn.Module:
    """Puts one number into every parameter, as a training would."""
    for parameter in module.parameters():
        nn.init.constant_(parameter, value)
    return module


def assert_all(module: nn.Module, value: float) -> None:
    """Every parameter is one number everywhere."""
    assert set(values(module).values()) == {value}


def assert_no_trace(module: nn.Module) -> None:
    """No hook is left armed on the instance."""
    assert not {"setup", "configure_model"} & set(vars(module))


def file_of(folder: Path, init_cfg: Any = None) -> tuple[Path, dict[str, Any]]:
    """A checkpoint of sevens for `Net`, and the rule that loads it."""
    path = folder / "seven.pt"
    torch.save(filled(Net(init_cfg), 7).state_dict(), path)
    return path, {"type": "Pretrained", "checkpoint": str(path)}


class TestResume:
    def saved(self, folder: Path, *given: callbacks.Callback, init_cfg: Any = None, kind: type[Net] = Net) -> Path:
        """A run of one step at a learning rate that moves weights, and the checkpoint it left."""
        run = trainer(folder, *given)
        run.fit(kind(init_cfg, lr=0.25))
        run.save_checkpoint(folder / "run.ckpt")
        return folder / "run.ckpt"

    def restored(self, path: Path) -> dict[str, Tensor]:
        state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
        return state

    def test_the_restored_weights_stand(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = self.saved(tmp_path, InitWeightsCallback(log=()))
        seen, callback, module = Snapshots(), InitWeightsCallback(), Net(lr=0.25)
        with caplog.at_level(logging.INFO):
            trainer(tmp_path, callback, seen, max_steps=2).fit(module, ckpt_path=path)
        wanted = self.restored(path)
        assert not torch.equal(wanted["head.weight"], torch.full((1, 3), 0.5))
        for name, tensor in seen.at_start[0].items():
            assert torch.equal(tensor, wanted[name])
        assert seen.steps == 1
        assert "The run is resumed: the restored weights stand" in caplog.text
        # A report would claim that rules wrote what a checkpoint restored.
        assert callback.report is None
        assert vars(module)["is_init"] is True

    def test_the_first_run_did_not_need_the_callback(self, tmp_path: Path) -> None:
        path = self.saved(tmp_path)
        seen = Snapshots()
        trainer(tmp_path, seen, InitWeightsCallback(), max_steps=2).fit(Net(), ckpt_path=path)
        assert all(torch.equal(tensor, self.restored(path)[name]) for name, tensor in seen.at_start[0].items())

    @pytest.mark.parametrize("on_meta", [False, True])
    def test_a_checkpoint_of_a_rule_may_be_gone(self, tmp_path: Path, on_meta: bool) -> None:
        file, rule = file_of(tmp_path)
        path = self.saved(tmp_path, InitWeightsCallback(log=()), init_cfg=[constant(1), rule])
        file.unlink()
        seen = Snapshots()
        with torch.device("meta" if on_meta else "cpu"):
            module = Net([constant(1), rule])
        trainer(tmp_path, InitWeightsCallback(), seen, max_steps=2).fit(module, ckpt_path=path)
        assert all(torch.equal(tensor, self.restored(path)[name]) for name, tensor in seen.at_start[0].items())
        assert seen.steps == 1
        # The file is found again: the module is not a new one any more.
        file_of(tmp_path)
        after = weights(module)
        module.lr = 0.0
        trainer(tmp_path, InitWeightsCallback(log=())).fit(module)
        assert all(torch.equal(tensor, after[name]) for name, tensor in weights(module).items())

    @pytest.mark.parametrize("on_meta", [False, True])
    def test_without_a_restore_its_error_comes_before_the_first_step(self, tmp_path: Path, on_meta: bool) -> None:
        file, rule = file_of(tmp_path)
        file.unlink()
        seen, callback = Snapshots(), InitWeightsCallback()
        with torch.device("meta" if on_meta else "cpu"):
            module = Net(rule)
        before = None if on_meta else weights(module)
        with pytest.raises(CheckpointError, match=r"Net\.init_cfg\.checkpoint.*seven\.pt"):
            trainer(tmp_path, seen, callback).fit(module)
        assert seen.steps == 0
        assert callback.report is None
        assert getattr(module, "is_init", False) is False
        assert_no_trace(module)
        if before is not None:
            assert all(torch.equal(tensor, before[name]) for name, tensor in weights(module).items())
        # The file is found, and the same objects do what they were asked.
        file_of(tmp_path)
        trainer(tmp_path, callback).fit(module)
        assert_all(module, 7)

    @pytest.mark.parametrize("first", [False, True], ids=["behind", "before"])
    @pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback:UserWarning")
    def test_an_average_of_late_layers_is_restored_though_a_file_is_gone(self, tmp_path: Path, first: bool) -> None:
        file, rule = file_of(tmp_path)
        rules = [constant(1), rule]
        path = self.saved(tmp_path, WeightAveraging(), InitWeightsCallback(log=()), init_cfg=rules, kind=Late)
        file.unlink()
        averaging, ours, seen = WeightAveraging(), InitWeightsCallback(log=()), Snapshots()
        averages: list[dict[str, Tensor]] = []

        class Looking(callbacks.Callback):
            def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
                assert averaging._average_model is not None
                averages.append(weights(averaging._average_model.module))

        given = [averaging, ours] if first else [ours, averaging]
        trainer(tmp_path, *given, seen, Looking(), max_steps=2).fit(Late(rules), ckpt_path=path)
        saved = torch.load(path, weights_only=True)
        assert "middle.weight" in saved["state_dict"]
        for found, wanted in (
            (seen.at_start[0], saved["current_model_state"]),
            (averages[0], saved["state_dict"]),
        ):
            assert found.keys() == wanted.keys()
            assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())
        assert seen.steps == 1

    def test_an_error_is_not_remembered_by_a_later_resume(self, tmp_path: Path) -> None:
        path = self.saved(tmp_path)
        file, rule = file_of(tmp_path)
        file.unlink()
        callback, module = InitWeightsCallback(log=()), Net(rule)
        with pytest.raises(CheckpointError):
            trainer(tmp_path, callback).fit(module)
        seen = Snapshots()
        trainer(tmp_path, callback, seen, max_steps=2).fit(module, ckpt_path=path)
        assert all(torch.equal(tensor, self.restored(path)[name]) for name, tensor in seen.at_start[0].items())

    def test_what_was_initialised_before_keeps_its_report(self, tmp_path: Path) -> None:
        callback, module = InitWeightsCallback(log=()), Net(lr=0.25)
        run = trainer(tmp_path, callback)
        run.fit(module)
        run.save_checkpoint(tmp_path / "run.ckpt")
        report = callback.report
        trainer(tmp_path, callback, max_steps=2).fit(module, ckpt_path=tmp_path / "run.ckpt")
        assert callback.report is report
        assert report is not None


class TestRefit:
    @pytest.mark.parametrize("same_trainer", [False, True])
    @pytest.mark.parametrize("same_callback", [False, True])
    def test_a_second_fit_initialises_nothing(self, tmp_path: Path, same_trainer: bool, same_callback: bool) -> None:
        callback = InitWeightsCallback(log=())
        first, module = trainer(tmp_path, callback), Net()
        first.fit(module)
        assert_all(module, 0.5)
        filled(module, 3)
        again = callback if same_callback else InitWeightsCallback(constant(9), log=())
        second = first if same_trainer else trainer(tmp_path, again)
        if same_trainer:
            first.callbacks = [again]  # type: ignore[attr-defined]  # set by the Trainer's connector
            first.fit_loop.epoch_loop.max_steps = 2
        second.fit(module)
        assert second.global_step == (2 if same_trainer else 1)
        assert_all(module, 3)

    def test_a_new_module_with_an_old_callback_is_initialised(self, tmp_path: Path) -> None:
        callback = InitWeightsCallback(log=())
        first, second = Net(), Net(constant(2))
        for module in (first, second):
            trainer(tmp_path, callback).fit(module)
        assert_all(first, 0.5)
        assert_all(second, 2)
        assert callback.report is not None
        assert callback.report.is_of(second)

    def test_a_callback_forgets_the_report_of_another_module(self, tmp_path: Path) -> None:
        callback, ready = InitWeightsCallback(log=()), Net()
        trainer(tmp_path, callback).fit(Net())
        ready.is_init = True  # type: ignore[assignment]
        trainer(tmp_path, callback).fit(ready)
        assert callback.report is None

    def test_a_deep_copy_is_as_initialised_as_its_original(self, tmp_path: Path) -> None:
        module = Net()
        trainer(tmp_path, InitWeightsCallback(log=())).fit(module)
        twin = copy.deepcopy(filled(module, 3))
        trainer(tmp_path, InitWeightsCallback(log=())).fit(twin)  # type: ignore[arg-type]
        assert_all(twin, 3)

    def test_is_init_keeps_what_load_from_checkpoint_gave(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        run = trainer(tmp_path)
        run.fit(filled(Net(), 4))  # type: ignore[arg-type]
        run.save_checkpoint(tmp_path / "run.ckpt")
        module = Net.load_from_checkpoint(tmp_path / "run.ckpt")
        module.is_init = True  # type: ignore[assignment]
        with caplog.at_level(logging.INFO):
            trainer(tmp_path, InitWeightsCallback(log=())).fit(module)
        assert_all(module, 4)
        assert "Net is initialised already" in caplog.text
        # Without the mark, the declared config is what counts.
        module = Net.load_from_checkpoint(tmp_path / "run.ckpt")
        trainer(tmp_path, InitWeightsCallback(log=())).fit(module)
        assert_all(module, 0.5)


class TestEvaluation:
    @pytest.mark.parametrize("how", ["validate", "test", "predict"])
    def test_it_never_initialises(self, tmp_path: Path, how: str) -> None:
        callback, module = InitWeightsCallback(log=()), Net()
        run = trainer(tmp_path, callback)
        filled(module, 3)
        getattr(run, how)(module, loader())
        assert_all(module, 3)
        assert_no_trace(module)
        run.fit(module)
        assert_all(module, 0.5)
        filled(module, 4)
        getattr(run, how)(module, loader())
        assert_all(module, 4)

    def test_a_checkpoint_restored_for_a_test_is_not_taken_for_a_resumed_fit(self, tmp_path: Path) -> None:
        callback, module = InitWeightsCallback(log=()), Net()
        run = trainer(tmp_path, callback)
        run.strategy.connect(filled(Net(), 3))  # type: ignore[arg-type]
        run.save_checkpoint(tmp_path / "other.ckpt")
        run.test(module, loader(), ckpt_path=tmp_path / "other.ckpt")
        assert_all(module, 3)
        run.fit(module)
        assert_all(module, 0.5)
        assert callback.report is not None

    def test_validation_inside_fit_sees_the_initialised_weights(self, tmp_path: Path) -> None:
        seen: list[dict[str, float]] = []

        class Watching(Net):
            def validation_step(self, batch: Tensor) -> None:
                seen.append(values(self))

        trainer(tmp_path, InitWeightsCallback(log=()), num_sanity_val_steps=1).fit(Watching(), loader(), loader())
        assert seen
        assert all(set(found.values()) == {0.5} for found in seen)


class Late(Net):
    """Layers of ``__init__``, ``setup`` and ``configure_model``; those of the latter are made anew by every call."""

    def __init__(self, init_cfg: Any = None, *, anew: bool = False, lr: float = 0.0) -> None:
        super().__init__(init_cfg, lr=lr)
        self.anew = anew
        self.made: nn.Linear | None = None
        self.calls: list[str] = []

    def setup(self, stage: str) -> None:
        self.calls.append("setup")
        if not hasattr(self, "middle"):
            self.middle = nn.Linear(3, 3)

    def configure_model(self) -> None:
        self.calls.append("configure_model")
        if self.made is None or self.anew:
            self.made = nn.Linear(3, 3)

    def forward(self, batch: Tensor) -> Tensor:
        assert self.made is not None
        output: Tensor = self.head(self.made(self.middle(self.body(batch))))
        return output


class TestLateLayers:
    def test_layers_of_setup_and_configure_model_are_initialised(self, tmp_path: Path) -> None:
        callback, module = InitWeightsCallback(log=()), Late()
        trainer(tmp_path, callback).fit(module)
        assert set(values(module)) == {
            f"{layer}.{name}" for layer in ("body", "head", "middle", "made") for name in ("weight", "bias")
        }
        assert_all(module, 0.5)
        assert module.calls == ["setup", "configure_model"]
        assert callback.report is not None
        assert {row.source for row in callback.report} == {"Late.init_cfg"}

    def test_the_optimizer_gets_the_initialised_parameters(self, tmp_path: Path) -> None:
        found: list[float] = []

        class Recording(Late):
            def configure_optimizers(self) -> torch.optim.Optimizer:
                found.extend(values(self).values())
                return super().configure_optimizers()

        trainer(tmp_path, InitWeightsCallback(log=())).fit(Recording())
        assert set(found) == {0.5}
        assert len(found) == 8

    def test_hooks_that_an_instance_has_of_its_own_are_called_and_put_back(self, tmp_path: Path) -> None:
        module = Net()
        calls: list[str] = []

        def setup(stage: str) -> None:
            calls.append(stage)

        def configure_model() -> None:
            module.extra = linear()

        module.setup = setup  # type: ignore[method-assign]
        module.configure_model = configure_model  # type: ignore[method-assign]
        trainer(tmp_path, InitWeightsCallback(log=())).fit(module)
        assert_all(module, 0.5)
        assert "extra.weight" in values(module)
        assert calls == ["fit"]
        assert vars(module)["setup"] is setup
        assert vars(module)["configure_model"] is configure_model


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback:UserWarning")
class TestAveraging:
    @pytest.mark.parametrize("first", [False, True], ids=["behind", "before"])
    @pytest.mark.parametrize("make", [WeightAveraging, EMAWeightAveraging])
    @pytest.mark.parametrize("anew", [False, True], ids=["kept", "anew"])
    def test_the_average_starts_from_the_initialised_weights(
        self, tmp_path: Path, first: bool, make: Callable[[], WeightAveraging], anew: bool
    ) -> None:
        averaging, ours = make(), InitWeightsCallback(log=())
        started: list[tuple[set[float], set[float]]] = []

        class Looking(callbacks.Callback):
            def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
                assert averaging._average_model is not None
                copied = values(averaging._average_model.module)
                assert copied.keys() == values(pl_module).keys()
                started.append((set(copied.values()), set(values(pl_module).values())))

        given = [averaging, ours] if first else [ours, averaging]
        module = Late(anew=anew)
        trainer(tmp_path, *given, Looking()).fit(module)
        assert started == [({0.5}, {0.5})]
        assert_all(module, 0.5)
        assert_no_trace(module)

    @pytest.mark.parametrize("first", [False, True], ids=["behind", "before"])
    def test_a_run_without_updates_ends_with_the_initialised_weights(self, tmp_path: Path, first: bool) -> None:
        averaging, ours = WeightAveraging(), InitWeightsCallback(log=())
        averaging.should_update = lambda step_idx=None, epoch_idx=None: False  # type: ignore[method-assign]
        module = Net(lr=0.25)
        trainer(tmp_path, *([averaging, ours] if first else [ours, averaging])).fit(module)
        assert_all(module, 0.5)

    def test_a_model_on_meta_cannot_be_copied_which_is_told_with_and_without_ours(self, tmp_path: Path) -> None:
        for given in ([], [InitWeightsCallback(log=())]):
            for callbacks_ in ([WeightAveraging(), *given], [*given, WeightAveraging()]):
                with torch.device("meta"):
                    module = Net()
                with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
                    trainer(tmp_path, *callbacks_).fit(module)

    @pytest.mark.parametrize("first", [False, True], ids=["behind", "before"])
    def test_swa_which_copies_the_module_while_a_hook_is_armed(self, tmp_path: Path, first: bool) -> None:
        averaging, ours, module = StochasticWeightAveraging(0.01, swa_epoch_start=1), InitWeightsCallback(log=()), Net()
        seen = Snapshots()
        given = [averaging, ours] if first else [ours, averaging]
        trainer(tmp_path, *given, seen, max_steps=-1, max_epochs=3).fit(module)
        assert all(set(tensor.flatten().tolist()) == {0.5} for tensor in seen.at_start[0].values())
        assert_no_trace(module)


class Searching(Net):
    """A model whose learning rate and batch size can be searched."""

    def __init__(self, init_cfg: Any = None, *, lr: float = 0.25) -> None:
        super().__init__(init_cfg, lr=lr)
        self.batch_size = 1
        self.first: dict[str, Tensor] = {}

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        # A search takes all other callbacks away, but not this.
        self.first = self.first or weights(self)

    def train_dataloader(self) -> DataLoader[Any]:
        rows: Any = [torch.ones(2)] * 8
        return DataLoader(rows, batch_size=self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        # A search of the batch size asks for one.
        return loader()


def search(**arguments: Any) -> callbacks.Callback:
    return LearningRateFinder(min_lr=1e-3, max_lr=1e-2, num_training_steps=4, **arguments)


class TestSearches:
    """They train, then restore a checkpoint of their own, which is no resumed run."""

    @pytest.mark.parametrize("make", [search, lambda: BatchSizeFinder(steps_per_trial=1, max_trials=2, init_val=1)])
    @pytest.mark.filterwarnings("ignore:.*no logger configured:UserWarning")
    def test_a_search_starts_from_the_initialised_weights_and_leaves_the_report(
        self, tmp_path: Path, make: Callable[[], callbacks.Callback], capsys: pytest.CaptureFixture[str]
    ) -> None:
        callback, seen, module = InitWeightsCallback(), Snapshots(), Searching()
        trainer(tmp_path, make(), callback, seen).fit(module)
        for found in (module.first, seen.at_start[0]):
            assert all(set(tensor.flatten().tolist()) == {0.5} for tensor in found.values())
        assert callback.report is not None
        assert callback.report.is_measured
        assert "head.weight" in capsys.readouterr().out

    def test_a_search_does_not_swallow_the_error_of_a_checkpoint(self, tmp_path: Path) -> None:
        file, rule = file_of(tmp_path)
        file.unlink()
        with pytest.raises(CheckpointError, match=r"seven\.pt"):
            trainer(tmp_path, search(), InitWeightsCallback()).fit(Searching(rule))

    def test_what_a_tuner_did_not_log_the_fit_behind_it_does(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        callback, seen, module = InitWeightsCallback(), Snapshots(), Searching()
        run = trainer(tmp_path, callback, seen)
        Tuner(run).lr_find(module, min_lr=1e-3, max_lr=1e-2, num_training=4)
        assert_all(module, 0.5)
        assert "head.weight" not in capsys.readouterr().out
        run.fit(module)
        assert "head.weight" in capsys.readouterr().out
        assert seen.steps == 1


class Failing(callbacks.Callback):
    """Raises in one hook, or deep-copies and pickles the module there."""

    def __init__(self, hook: str, act: Callable[[pl.LightningModule], object]) -> None:
        self.hook, self.act = hook, act

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.hook == "setup" and stage == "fit":
            self.act(pl_module)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.hook == "on_fit_start":
            self.act(pl_module)


def fail(*args: Any, **kwargs: Any) -> Any:
    raise ZeroDivisionError("made to fail")


class TestFailures:
    @pytest.mark.parametrize("hook", ["setup", "configure_model", "configure_optimizers", "on_fit_start"])
    @pytest.mark.parametrize("own", [False, True], ids=["class", "instance"])
    def test_a_hook_that_raises_leaves_no_trace(self, tmp_path: Path, hook: str, own: bool) -> None:
        module = Net() if own else type("Broken", (Net,), {hook: fail})()
        if own:
            setattr(module, hook, fail)
        callback = InitWeightsCallback(log=())
        with pytest.raises(ZeroDivisionError):
            trainer(tmp_path, callback).fit(module)
        assert set(vars(module)) & {"setup", "configure_model"} <= ({hook} if own else set())
        if own:
            assert vars(module).pop(hook) is fail
            filled(module, 3)
            trainer(tmp_path, callback).test(module, loader())
            assert_all(module, 3)

    def test_a_step_that_raises(self, tmp_path: Path) -> None:
        module = Net()
        module.training_step = fail  # type: ignore[method-assign]
        callback = InitWeightsCallback(log=())
        run = trainer(tmp_path, callback)
        with pytest.raises(ZeroDivisionError):
            run.fit(module)
        assert_no_trace(module)
        filled(module, 3)
        run.test(module, loader())
        assert_all(module, 3)

    @pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
    def test_another_callback_raises_while_the_hook_is_armed(self, tmp_path: Path, error: type[BaseException]) -> None:
        def act(pl_module: pl.LightningModule) -> None:
            assert "setup" in vars(pl_module)
            raise error

        module, callback = Net(), InitWeightsCallback(log=())
        with pytest.raises((error, SystemExit)):
            trainer(tmp_path, callback, Failing("setup", act)).fit(module)
        assert_no_trace(module)
        filled(module, 3)
        trainer(tmp_path, callback).test(module, loader())
        assert_all(module, 3)
        # It was not initialised, so the next fit does it.
        trainer(tmp_path, callback).fit(module)
        assert_all(module, 0.5)

    def test_an_armed_module_and_its_trainer_can_be_copied_and_pickled(self, tmp_path: Path) -> None:
        taken: list[Any] = []

        def act(pl_module: pl.LightningModule) -> None:
            assert "setup" in vars(pl_module)
            taken.append(copy.deepcopy(pl_module))
            taken.append(pickle.loads(pickle.dumps(pl_module)))  # noqa: S301 - made on this line
            taken.append(copy.deepcopy(pl_module.trainer).lightning_module)

        module = Net()
        trainer(tmp_path, InitWeightsCallback(log=()), Failing("setup", act)).fit(module)
        assert_all(module, 0.5)
        for twin in taken:
            armed = vars(twin)["setup"]
            assert armed.args[0] is twin
            assert module is not twin

    def test_a_finished_callback_can_be_pickled_with_its_report(self, tmp_path: Path) -> None:
        callback = InitWeightsCallback(log=())
        trainer(tmp_path, callback).fit(Net())
        twin = pickle.loads(pickle.dumps(callback))  # noqa: S301 - made on this line
        assert twin.report["head.bias"].source == "Net.init_cfg"
        assert twin.report.is_of(Net()) is False

    def test_faults_of_the_config_come_before_the_module_is_set_up(self, tmp_path: Path) -> None:
        module = Late([{"type": "Normall"}, constant("x")])  # type: ignore[arg-type]
        before = weights(module)
        with pytest.raises(InitConfigError) as info:
            trainer(tmp_path, InitWeightsCallback(log=())).fit(module)
        assert [fault.where for fault in info.value.faults] == ["Late.init_cfg[0].type"] + [
            f"Late.init_cfg[1].{name}" for name in ("bias", "val")
        ]
        assert module.calls == []
        assert_no_trace(module)
        assert all(torch.equal(tensor, before[name]) for name, tensor in weights(module).items())
