"""What the callback takes, where it works, and what comes out: seeds, precisions, kinds of training, strategies."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_init import (
    InitConfigError,
    InitWarning,
    InitWeightsCallback,
    WeightStatistics,
    init_weights,
)
from lightning_init.moments import STATISTICS
from tests.models import Holder, constant, value, values
from tests.trainers import Net, Snapshots, trainer, weights

KAIMING: dict[str, Any] = {"type": "Kaiming", "layer": "Linear", "bias": 0.25}


def assert_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """The same names hold the same bits."""
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def started(folder: Path, callback: InitWeightsCallback, module: pl.LightningModule, **arguments: Any) -> Any:
    """The weights at the start of training."""
    seen = Snapshots()
    trainer(folder, callback, seen, **arguments).fit(module)
    return seen.at_start[0]


class TestArguments:
    def test_all_faults_are_told_at_once(self) -> None:
        with pytest.raises(InitConfigError) as info:
            InitWeightsCallback(
                [{"type": "Normall"}, constant(1, layers="Linear")],
                seed="0",  # type: ignore[arg-type]
                rng_device="gpu",  # type: ignore[arg-type]
                strict=1,  # type: ignore[arg-type]
                require_all=None,  # type: ignore[arg-type]
                sync="first",  # type: ignore[arg-type]
                log=("scalar", "table", "movie"),
            )
        assert {fault.where for fault in info.value.faults} == {
            "InitWeightsCallback.init_cfg[0].type",
            "InitWeightsCallback.init_cfg[1].layers",
            *(f"InitWeightsCallback.{name}" for name in ("seed", "rng_device", "strict", "require_all", "sync", "log")),
        }
        assert [fault.what for fault in info.value.faults if fault.where.endswith("log")] == [
            "cannot hold 'scalar'; did you mean 'scalars'?",
            "cannot hold 'movie'; there are 'artifact', 'figure', 'histograms', 'scalars', 'table'",
        ]

    @pytest.mark.parametrize("seed", [True, 1.0, "1"])
    def test_a_seed_is_an_integer(self, seed: Any) -> None:
        with pytest.raises(InitConfigError, match=r"^InitWeightsCallback\.seed: must be an integer or None"):
            InitWeightsCallback(seed=seed)

    @pytest.mark.parametrize("threads", [True, 0, -1, 1.5, "2"])
    def test_the_number_of_threads_is_one(self, threads: Any) -> None:
        with pytest.raises(InitConfigError, match=r"^InitWeightsCallback\.threads: must be an integer from 1 on"):
            InitWeightsCallback(threads=threads)

    @pytest.mark.parametrize("log", [None, 5, True])
    def test_log_is_some_names(self, log: Any) -> None:
        with pytest.raises(InitConfigError, match=r"^InitWeightsCallback\.log: must be some of"):
            InitWeightsCallback(log=log)

    @pytest.mark.parametrize("init_cfg", ["Kaiming", 3, [None], [["x"]], {"type": None}])
    def test_a_config_is_rules(self, init_cfg: Any) -> None:
        with pytest.raises(InitConfigError, match=r"^InitWeightsCallback\.init_cfg"):
            InitWeightsCallback(init_cfg)

    def test_one_name_for_log_may_stand_alone(self) -> None:
        assert InitWeightsCallback(log="table").contents == ("table",)
        assert InitWeightsCallback(log=["histograms"]).contents == ("histograms",)
        assert InitWeightsCallback().contents == ("table", "scalars")

    def test_options_are_by_name_only(self) -> None:
        with pytest.raises(TypeError, match="positional"):
            InitWeightsCallback(None, 3)  # type: ignore[call-arg]

    def test_the_config_is_copied_and_not_changed(self, tmp_path: Path) -> None:
        rules = [constant(2, override={"name": "head", "type": "Constant", "val": 3})]
        given = copy.deepcopy(rules)
        callback, module = InitWeightsCallback(rules, log=()), Net()
        rules[0]["val"] = 9
        trainer(tmp_path, callback).fit(module)
        assert value(module.body.weight) == 2
        rules[0]["val"] = 2
        assert rules == given

    def test_it_has_no_report_before_a_fit(self) -> None:
        assert InitWeightsCallback().report is None


class TestConfigs:
    def test_the_config_of_the_callback_is_in_place_of_the_root_s_own(self, tmp_path: Path) -> None:
        module = Net(constant(1))
        module.extra = Holder(constant(7), inner=nn.Linear(1, 1))
        callback = InitWeightsCallback(constant(2), log=())
        trainer(tmp_path, callback).fit(module)
        assert values(module) == {
            "body.weight": 2,
            "body.bias": 2,
            "head.weight": 2,
            "head.bias": 2,
            "extra.inner.weight": 7,
            "extra.inner.bias": 7,
        }
        assert callback.report is not None
        assert callback.report["body.weight"].source == "InitWeightsCallback.init_cfg"
        assert callback.report["extra.inner.bias"].source == "Net.extra.init_cfg"

    def test_a_faulty_config_of_the_root_is_not_read_then(self, tmp_path: Path) -> None:
        module = Net({"type": "Normall"})
        trainer(tmp_path, InitWeightsCallback(constant(2), log=())).fit(module)
        assert set(values(module).values()) == {2}

    def test_a_module_without_a_config_keeps_its_constructor_s_values(self, tmp_path: Path) -> None:
        module = Net([])
        before, callback = weights(module), InitWeightsCallback(log=())
        assert_equal(started(tmp_path, callback, module), before)
        assert callback.report is not None
        assert callback.report.untouched == ["body.weight", "body.bias", "head.weight", "head.bias"]

    def test_a_rule_without_a_match_is_a_warning_and_under_strict_an_error(self, tmp_path: Path) -> None:
        rules = [constant(0.5), {"type": "Kaiming", "layer": "Conv2d"}]
        module = Net(rules)
        with pytest.warns(InitWarning, match="Conv2d"):
            trainer(tmp_path, InitWeightsCallback(log=())).fit(module)
        assert set(values(module).values()) == {0.5}
        module = Net(rules)
        before = weights(module)
        with pytest.raises(InitConfigError, match=r"^Net\.init_cfg\[1\].*Conv2d"):
            trainer(tmp_path, InitWeightsCallback(strict=True, log=())).fit(module)
        assert_equal(weights(module), before)
        assert not getattr(module, "is_init", False)

    def test_require_all_names_what_nothing_writes(self, tmp_path: Path) -> None:
        module = Net(constant(0.5, name="body"))
        before = weights(module)
        with pytest.raises(InitConfigError) as info:
            trainer(tmp_path, InitWeightsCallback(require_all=True, log=())).fit(module)
        assert [fault.where for fault in info.value.faults] == ["head.weight", "head.bias"]
        assert_equal(weights(module), before)

    def test_require_all_with_a_method_that_does_too_little(self, tmp_path: Path) -> None:
        class Lazy(Net):
            def init_weights(self) -> None:
                nn.init.ones_(self.head.weight)

        module = Lazy(constant(0.5, name="body"))
        with pytest.raises(InitConfigError, match=r"^head\.bias: nothing wrote it"):
            trainer(tmp_path, InitWeightsCallback(require_all=True, log=())).fit(module)
        # Else a second fit would take it for initialised.
        assert vars(module)["is_init"] is False

    def test_a_method_that_fails_leaves_no_mark(self, tmp_path: Path) -> None:
        class Failing(Net):
            def init_weights(self) -> None:
                raise ZeroDivisionError

        module = Failing()
        module.extra = Holder(constant(7), inner=nn.Linear(1, 1))
        with pytest.raises(ZeroDivisionError):
            trainer(tmp_path, InitWeightsCallback(log=())).fit(module)
        assert [getattr(part, "is_init", False) for part in module.modules()] == [False] * 5

    def test_code_beats_rules(self, tmp_path: Path) -> None:
        class Coded(Net):
            def init_weights(self) -> None:
                nn.init.constant_(self.head.weight, 7)

        callback, module = InitWeightsCallback(log=()), Coded()
        trainer(tmp_path, callback).fit(module)
        assert (value(module.head.weight), value(module.head.bias)) == (7, 0.5)
        assert callback.report is not None
        assert callback.report["head.weight"].source == "Coded.init_weights"


class TestSeeds:
    def test_an_explicit_seed_gives_the_weights_of_init_weights(self, tmp_path: Path) -> None:
        alone = Net(KAIMING)
        init_weights(alone, seed=5)
        pl.seed_everything(1, verbose=False)
        callback = InitWeightsCallback(seed=5, log=())
        assert_equal(started(tmp_path, callback, Net(KAIMING)), weights(alone))
        assert callback.report is not None
        assert callback.report.seed == 5

    def test_else_it_is_that_of_seed_everything(self, tmp_path: Path) -> None:
        alone = Net(KAIMING)
        init_weights(alone, seed=11)
        pl.seed_everything(11, verbose=False)
        for _ in range(2):
            # The second module of a process as well, whatever has been drawn since.
            torch.rand(3)
            assert_equal(started(tmp_path, InitWeightsCallback(log=()), Net(KAIMING)), weights(alone))

    def test_without_any_each_run_has_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
        seeds, found = [], []
        for _ in range(2):
            callback = InitWeightsCallback(log=())
            found.append(started(tmp_path, callback, Net(KAIMING))["head.weight"])
            assert callback.report is not None
            seeds.append(callback.report.seed)
        assert seeds[0] != seeds[1]
        assert not torch.equal(*found)
        again = Net(KAIMING)
        init_weights(again, seed=seeds[0])
        assert torch.equal(again.head.weight, found[0])

    @pytest.mark.parametrize(("seed", "everything", "draws"), [(5, None, 0), (None, 3, 0), (5, 3, 0), (None, None, 1)])
    def test_the_user_s_generator_moves_by_that_one_draw_only(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int | None, everything: int | None, draws: int
    ) -> None:
        states: list[Tensor] = []

        class Recording(Net):
            def init_weights(self) -> None:
                # It has a stream of its own.
                nn.init.normal_(self.head.bias)
                torch.rand(100)

            def configure_model(self) -> None:
                states.append(torch.get_rng_state())

            def configure_optimizers(self) -> torch.optim.Optimizer:
                states.append(torch.get_rng_state())
                return super().configure_optimizers()

        monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
        if everything is not None:
            pl.seed_everything(everything, verbose=False)
        trainer(tmp_path, InitWeightsCallback(seed=seed, log=())).fit(Recording(KAIMING))
        torch.set_rng_state(states[0])
        for _ in range(draws):
            torch.randint(2**63 - 1, (), dtype=torch.int64)
        assert torch.equal(torch.get_rng_state(), states[1])

    def test_logging_draws_nothing(self, tmp_path: Path) -> None:
        ends = []
        for log in ((), ("scalars", "table", "histograms")):
            torch.manual_seed(0)
            trainer(tmp_path, InitWeightsCallback(seed=1, log=log)).fit(Net(KAIMING))
            ends.append(torch.get_rng_state())
        assert torch.equal(*ends)


class Configured(Net):
    """With a layer of ``configure_model``."""

    def configure_model(self) -> None:
        self.middle = nn.Linear(3, 3)

    def forward(self, batch: Tensor) -> Tensor:
        output: Tensor = self.head(self.middle(self.body(batch)))
        return output


class TestPrecision:
    def full(self) -> dict[str, Tensor]:
        module = Configured(KAIMING)
        module.configure_model()
        init_weights(module, seed=5)
        return weights(module)

    @pytest.mark.parametrize(("precision", "dtype"), [("bf16-true", torch.bfloat16), ("16-true", torch.float16)])
    def test_half_precision_is_the_rounded_stream(self, tmp_path: Path, precision: str, dtype: torch.dtype) -> None:
        callback = InitWeightsCallback(seed=5, log="scalars")
        run = trainer(tmp_path, callback, precision=precision)
        module = Configured(KAIMING)
        seen = Snapshots()
        run.callbacks.append(seen)  # type: ignore[attr-defined]  # set by the Trainer's connector
        run.fit(module)
        rounded = {name: tensor.to(dtype) for name, tensor in self.full().items()}
        assert_equal(seen.at_start[0], rounded)
        assert torch.get_default_dtype() is torch.float32
        assert callback.report is not None
        for row in callback.report:
            assert row.dtype is dtype
            assert row.statistics is not None
            assert row.statistics["max"] == rounded[row.name].double().max()
        assert callback.report["middle.weight"].expected is not None

    @pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
    def test_other_precisions_start_from_the_fp32_stream(self, tmp_path: Path, precision: str) -> None:
        found = started(tmp_path, InitWeightsCallback(seed=5, log=()), Configured(KAIMING), precision=precision)
        full = self.full()
        dtype = torch.float64 if precision == "64-true" else torch.float32
        assert {tensor.dtype for tensor in found.values()} == {dtype}
        # A layer that is made in float64 gets the stream of float64, which is none of float32.
        same = [name for name in found if torch.equal(found[name].float(), full[name])]
        assert set(full) - set(same) <= ({"middle.weight"} if dtype is torch.float64 else set())


class TestKindsOfTraining:
    def test_a_compiled_module(self, tmp_path: Path) -> None:
        module, callback = Net(), InitWeightsCallback(log=())
        compiled: Any = torch.compile(module, backend="eager")
        trainer(tmp_path, callback).fit(compiled)
        assert set(values(module).values()) == {0.5}
        assert callback.report is not None
        assert [row.name for row in callback.report] == list(values(module))

    def test_a_compiled_submodule_has_its_plain_names(self, tmp_path: Path) -> None:
        def made(*, compiled: bool) -> Net:
            module = Net({"type": "Kaiming", "layer": "Linear", "override": constant(3, name="body")})
            module.body = torch.compile(module.body, backend="eager") if compiled else module.body  # type: ignore[assignment]
            return module

        callback = InitWeightsCallback(seed=5, log=())
        found = started(tmp_path, callback, made(compiled=True))
        assert value(found["body._orig_mod.weight"]) == 3
        assert callback.report is not None
        assert [row.name for row in callback.report] == ["body.weight", "body.bias", "head.weight", "head.bias"]
        assert all(row.statistics is not None for row in callback.report)
        plain = started(tmp_path, InitWeightsCallback(seed=5, log=()), made(compiled=False))
        assert torch.equal(found["head.weight"], plain["head.weight"])

    def test_manual_optimization(self, tmp_path: Path) -> None:
        class Manual(Net):
            def __init__(self) -> None:
                super().__init__(lr=0.25)
                self.automatic_optimization = False

            def training_step(self, batch: Tensor) -> Tensor:
                optimizer: Any = self.optimizers()
                optimizer.zero_grad()
                loss = super().training_step(batch)
                self.manual_backward(loss)
                optimizer.step()
                return loss

        module = Manual()
        found = started(tmp_path, InitWeightsCallback(log=()), module)
        assert set(map(value, found.values())) == {0.5}
        assert not torch.equal(module.head.weight, found["head.weight"])

    @pytest.mark.parametrize(
        "arguments",
        [
            {"fast_dev_run": True},
            {"barebones": True, "enable_checkpointing": None, "logger": None},
            {"num_sanity_val_steps": 2},
            {"max_epochs": 1, "max_steps": -1, "accumulate_grad_batches": 2},
        ],
        ids=lambda arguments: next(iter(arguments)),
    )
    @pytest.mark.filterwarnings("ignore:.*val_dataloader.*:UserWarning")
    def test_ways_to_run(self, tmp_path: Path, arguments: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
        callback = InitWeightsCallback()
        found = started(tmp_path, callback, Net(), **arguments)
        assert set(map(value, found.values())) == {0.5}
        assert callback.report is not None
        assert callback.report.is_measured
        assert "head.weight" in capsys.readouterr().out

    def test_a_datamodule_and_a_checkpoint_callback(self, tmp_path: Path) -> None:
        class Data(pl.LightningDataModule):
            def train_dataloader(self) -> Any:
                return Net().train_dataloader()

        module, saving = Net(), ModelCheckpoint(tmp_path, save_last=True)
        run = trainer(tmp_path, saving, InitWeightsCallback(log=()), enable_checkpointing=True)
        run.fit(module, datamodule=Data())
        state = torch.load(saving.last_model_path, weights_only=True)
        assert_equal(state["state_dict"], weights(module))
        # What the callback is asked to keep, a run without it can still be resumed from.
        assert not any("InitWeights" in key for key in state["callbacks"])

    def test_one_callback_may_serve_several_trainers(self, tmp_path: Path) -> None:
        callback = InitWeightsCallback(KAIMING, seed=5, log=())
        trainers = [trainer(tmp_path, callback) for _ in range(2)]
        modules = [Net(), Net()]
        for run, module in zip(trainers, modules, strict=True):
            run.fit(module)
        assert_equal(weights(modules[0]), weights(modules[1]))

    def test_other_callbacks_keep_their_order(self, tmp_path: Path) -> None:
        others = [Snapshots(), Snapshots()]
        callback = InitWeightsCallback(log=())
        run = trainer(tmp_path, others[0], callback, others[1])
        before: list[Any] = list(run.callbacks)  # type: ignore[attr-defined]
        for module in (Net(), Net()):
            run.fit_loop.epoch_loop.max_steps = run.global_step + 1
            run.fit(module)
            found: list[Any] = run.callbacks  # type: ignore[attr-defined]
            assert found == [callback, *(other for other in before if other is not callback)]
        assert [len(other.at_start) for other in others] == [2, 2]


class TestStatisticsInTheFlow:
    def test_the_report_holds_what_the_metric_gives(self, tmp_path: Path) -> None:
        callback, module = InitWeightsCallback(seed=5), Net(KAIMING)
        found = started(tmp_path, callback, module)
        metric = WeightStatistics()
        metric.update(found)
        assert callback.report is not None
        for name, wanted in metric.compute().items():
            measured = callback.report[name].statistics
            assert measured is not None
            assert tuple(measured) == STATISTICS
            for key in STATISTICS:
                assert measured[key] == wanted[key] or (math.isnan(measured[key]) and math.isnan(wanted[key]))
        assert math.isnan(metric.compute()["head.bias"]["std"])

    def test_a_report_that_is_logged_nowhere_is_measured_as_well(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        callback = InitWeightsCallback(seed=5, log=())
        # Behind the start, training moves the weights.
        found = started(tmp_path, callback, Net(KAIMING, lr=0.25))
        assert callback.report is not None
        for row in callback.report:
            assert row.statistics is not None
            assert row.statistics["max"] == found[row.name].double().max()
        assert "head.weight" not in capsys.readouterr().out

    def test_as_an_attribute_it_is_no_weight(self, tmp_path: Path) -> None:
        class Measuring(Net):
            def __init__(self, init_cfg: Any = None) -> None:
                super().__init__(init_cfg)
                self.statistics = WeightStatistics()

            def on_train_start(self) -> None:
                self.statistics.update(dict(self.named_parameters()))
                self.measured = self.statistics.compute()

        callback, module = InitWeightsCallback(require_all=True), Measuring(KAIMING)
        trainer(tmp_path, callback).fit(module)
        assert callback.report is not None
        assert [row.name for row in callback.report] == list(module.measured)
        assert callback.report["body.weight"].statistics == module.measured["body.weight"]
        assert module.measured["body.bias"]["mean"] == 0.25
        assert module.measured["body.bias"]["std"] == 0


class TestRefusals:
    @pytest.mark.parametrize("same", [False, True])
    def test_two_on_one_trainer(self, tmp_path: Path, same: bool) -> None:
        first, module = InitWeightsCallback(log=()), Net()
        before = weights(module)
        second = first if same else InitWeightsCallback(constant(3), log=())
        with pytest.raises(InitConfigError, match="one InitWeightsCallback; give it a list of rules"):
            trainer(tmp_path, first, second).fit(module)
        assert_equal(weights(module), before)
        assert not {"setup", "configure_model", "is_init"} & set(vars(module))
