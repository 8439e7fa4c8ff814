"""Models born on ``meta``, or with unset memory, on a single device: complete, or an error that names what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lightning_init import InitConfigError, InitWeightsCallback, init_weights
from lightning_init.materialize import allocate, materialize, plan_meta, reset
from lightning_init.tree import Tree
from tests.models import Holder, constant, value, values
from tests.trainers import Net, Snapshots, loader, trainer, weights

KAIMING: dict[str, Any] = {"type": "Kaiming", "layer": "Linear", "bias": 0.25}


def on_meta(make: Any, *args: Any, **kwargs: Any) -> Any:
    """Builds a module without storage."""
    with torch.device("meta"):
        return make(*args, **kwargs)


class Normed(Net):
    """With buffers, and a parameter that two modules share."""

    def __init__(self, init_cfg: Any = None, *, lr: float = 0.0) -> None:
        super().__init__(init_cfg, lr=lr)
        self.norm = nn.BatchNorm1d(3)
        self.twin = nn.Linear(2, 3)
        self.twin.weight = self.body.weight

    def forward(self, batch: Tensor) -> Tensor:
        output: Tensor = self.head(self.norm(self.body(batch) + self.twin(batch)))
        return output


class Scaled(nn.Module):
    """A parameter of its own, a buffer that a checkpoint holds and one that it does not."""

    def __init__(self, *, persistent: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer("offset", torch.ones(3), persistent=persistent)


class Reset(Scaled):
    """The same, and it can set all of it."""

    def reset_parameters(self) -> None:
        nn.init.constant_(self.scale, 2)
        self.get_buffer("offset").fill_(3)


class Sloppy(Scaled):
    """It can set its parameter and forgets its buffer."""

    def reset_parameters(self) -> None:
        nn.init.constant_(self.scale, 2)


class Methodical(Net):
    """Its ``init_weights`` writes what no rule does."""

    def __init__(self, init_cfg: Any = None, *, complete: bool = True) -> None:
        super().__init__(init_cfg)
        self.complete = complete
        self.scale = nn.Parameter(torch.ones(3))
        self.shift = nn.Parameter(torch.ones(3))
        self.again = self.shift

    def init_weights(self) -> None:
        with torch.no_grad():
            self.again.fill_(6)
            if self.complete:
                self.scale.fill_(5)


class TestSingleDevice:
    def test_a_model_built_on_meta_starts_as_one_that_was_not(self, tmp_path: Path) -> None:
        found = []
        for device in ("cpu", "meta"):
            with torch.device(device):
                module = Normed(KAIMING)
            assert module.head.weight.device.type == device
            callback = InitWeightsCallback(seed=3)
            seen = Snapshots()
            trainer(tmp_path, callback, seen).fit(module)
            assert callback.report is not None
            assert all(row.statistics is not None for row in callback.report)
            found += seen.at_start
        assert found[0].keys() == found[1].keys()
        assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())

    def test_it_trains(self, tmp_path: Path) -> None:
        module = on_meta(Normed, KAIMING, lr=0.25)
        kept = module.body.bias
        kept.requires_grad_(requires_grad=False)
        trainer(tmp_path, InitWeightsCallback(log=())).fit(module)
        assert not any(tensor.is_meta for tensor in module.state_dict().values())
        assert module.twin.weight is module.body.weight
        assert [parameter.requires_grad for parameter in (module.body.bias, module.twin.bias)] == [False, True]
        assert not torch.equal(module.head.bias, torch.full((1,), 0.25))
        assert int(module.norm.num_batches_tracked) == 1

    def test_buffers_and_norms_are_what_their_constructors_make(self, tmp_path: Path) -> None:
        module, callback = on_meta(Normed), InitWeightsCallback(log=())
        trainer(tmp_path, callback, limit_train_batches=0).fit(module)
        fresh = nn.BatchNorm1d(3).state_dict()
        assert all(torch.equal(tensor, fresh[name]) for name, tensor in module.norm.state_dict().items())
        assert values(module)["body.weight"] == 0.5
        assert callback.report is not None
        assert callback.report["norm.weight"].source == "BatchNorm1d.reset_parameters"
        assert callback.report["twin.weight"].source == "Normed.init_cfg"

    def test_attributes_of_parameters_stay(self, tmp_path: Path) -> None:
        module = on_meta(Net)
        module.head.weight.no_decay = True
        trainer(tmp_path, InitWeightsCallback(log=())).fit(module)
        assert module.head.weight.no_decay is True

    def test_an_empty_model_of_the_trainer_is_filled(self, tmp_path: Path) -> None:
        run = trainer(tmp_path, InitWeightsCallback(log=()))
        with run.init_module(empty_init=True):
            module = Net()
        run.fit(module)
        assert set(values(module).values()) == {0.5}

    def test_layers_of_configure_model_may_be_on_meta(self, tmp_path: Path) -> None:
        class Late(Net):
            def configure_model(self) -> None:
                self.middle = on_meta(nn.Linear, 3, 3)

        module = Late()
        trainer(tmp_path, InitWeightsCallback(log=())).fit(module)
        assert values(module)["middle.weight"] == 0.5

    def test_in_half_precision(self, tmp_path: Path) -> None:
        module, callback = on_meta(Normed, KAIMING), InitWeightsCallback(seed=3, log=())
        trainer(tmp_path, callback, precision="bf16-true", limit_train_batches=0).fit(module)
        full = Normed(KAIMING)
        init_weights(full, seed=3)
        assert torch.equal(module.body.weight, full.body.weight.bfloat16())

    def test_a_parametrized_weight(self, tmp_path: Path) -> None:
        def make() -> Net:
            module = Net()
            parametrizations.weight_norm(module.head)
            return module

        module = on_meta(make)
        trainer(tmp_path, InitWeightsCallback(log=())).fit(module)
        torch.testing.assert_close(module.head.weight, torch.full((1, 3), 0.5))
        assert value(module.head.bias) == 0.5

    def test_a_rule_wins_over_what_reset_parameters_set(self, tmp_path: Path) -> None:
        module = on_meta(Net, [constant(0.5), constant(4, name="extra", params="scale")])
        module.extra = on_meta(Reset)
        callback = InitWeightsCallback(log=())
        trainer(tmp_path, callback).fit(module)
        assert value(module.extra.scale) == 4
        assert value(module.extra.offset) == 3
        assert callback.report is not None
        assert callback.report["extra.scale"].source == "Net.init_cfg[1]"

    def test_what_rules_write_as_a_whole_is_not_reset_before(self, tmp_path: Path) -> None:
        class Counting(nn.Linear):
            resets = 0

            def reset_parameters(self) -> None:
                type(self).resets += 1
                super().reset_parameters()

        module = on_meta(Net, [constant(0.5, name="body"), constant(0.5, name="head"), constant(2, name="whole")])
        module.whole = on_meta(Counting, 2, 2)
        Counting.resets = 0
        trainer(tmp_path, InitWeightsCallback(log=())).fit(module)
        assert value(module.whole.weight) == 2
        assert Counting.resets == 0

    def test_what_a_method_writes_is_written(self, tmp_path: Path) -> None:
        module, callback = on_meta(Methodical), InitWeightsCallback(log=())
        trainer(tmp_path, callback).fit(module)
        assert (value(module.scale), value(module.shift)) == (5, 6)
        assert module.again is module.shift


class TestUnset:
    @pytest.mark.parametrize(
        ("extra", "names"),
        [
            (Scaled, ["extra.scale", "extra.offset"]),
            (lambda: Scaled(persistent=False), ["extra.scale", "extra.offset"]),
            (Sloppy, ["extra.offset"]),
            (lambda: Holder(inner=Scaled()), ["extra.inner.scale", "extra.inner.offset"]),
        ],
    )
    def test_what_nobody_sets_is_named_in_an_error(self, tmp_path: Path, extra: Any, names: list[str]) -> None:
        module = Net()
        module.extra = on_meta(extra)
        with pytest.raises(InitConfigError, match="meta device") as info:
            trainer(tmp_path, InitWeightsCallback(log=())).fit(module)
        assert [fault.where for fault in info.value.faults] == names
        assert "no rule and no reset_parameters" in str(info.value)
        assert not getattr(module, "is_init", False)
        assert "cpu" not in vars(module)

    @pytest.mark.parametrize("kind", [Scaled, Sloppy])
    def test_the_error_comes_before_anything_is_written(self, tmp_path: Path, kind: type[Scaled]) -> None:
        module, extra = Net(), on_meta(kind)
        module.extra = extra
        before = weights(module.body)
        with pytest.raises(InitConfigError):
            trainer(tmp_path, InitWeightsCallback(log=())).fit(module)
        assert all(torch.equal(tensor, before[name]) for name, tensor in weights(module.body).items())
        assert extra.scale.is_meta
        # A second try gets the same answer, and no unset memory.
        with pytest.raises(InitConfigError):
            trainer(tmp_path, InitWeightsCallback(log=())).fit(module)

    def test_a_method_that_leaves_memory_unset(self, tmp_path: Path) -> None:
        module = on_meta(Methodical, complete=False)
        with pytest.raises(InitConfigError, match=r"^scale: has no values yet"):
            trainer(tmp_path, InitWeightsCallback(log=())).fit(module)
        # Else a second fit would train on it.
        assert module.is_init is False
        assert module.scale.is_meta
        assert module.again is module.shift
        module.complete = True
        trainer(tmp_path, InitWeightsCallback(log=())).fit(module)
        assert (value(module.scale), value(module.shift), value(module.head.weight)) == (5, 6, 0.5)

    def test_faults_of_a_config_are_not_hidden_by_the_teardown(self, tmp_path: Path) -> None:
        module = on_meta(Net, {"type": "Normall"})
        with pytest.raises(InitConfigError, match="did you mean 'Normal'"):
            trainer(tmp_path, InitWeightsCallback(log=())).fit(module)
        assert module.head.weight.is_meta
        module.init_cfg = constant(0.5)
        trainer(tmp_path, InitWeightsCallback(log=())).fit(module)
        assert set(values(module).values()) == {0.5}

    def test_a_kept_parameter_has_nothing_to_keep(self, tmp_path: Path) -> None:
        module = on_meta(Net, [constant(0.5), {"type": "Keep", "name": "extra"}])
        module.extra = on_meta(Scaled)
        with pytest.raises(InitConfigError, match=r"extra\.scale"):
            trainer(tmp_path, InitWeightsCallback(log=())).fit(module)

    def test_evaluation_alone_does_not_materialise(self, tmp_path: Path) -> None:
        module = on_meta(Net)
        with pytest.raises(NotImplementedError, match="meta"):
            trainer(tmp_path, InitWeightsCallback(log=())).test(module, loader())


class TestParts:
    def test_a_plan_names_what_has_to_be_reset_and_what_is_unset(self) -> None:
        module = Holder(norm=on_meta(nn.BatchNorm1d, 2), extra=on_meta(Scaled), real=Scaled())
        tree = Tree(module)
        plan = plan_meta(tree, [slot for slot in tree.slots if slot.name == "extra.scale"])
        assert [node.path for node in plan.resets] == ["norm"]
        assert plan.unset == ("extra.offset",)

    def test_nothing_is_allocated_that_has_storage(self) -> None:
        module = Holder(real=nn.Linear(2, 2), ghost=on_meta(nn.Linear, 2, 2))
        real = module.get_parameter("real.weight")
        before = real.detach().clone()
        allocate(Tree(module), torch.device("cpu"))
        assert module.get_parameter("real.weight") is real
        assert torch.equal(real, before)
        assert module.get_submodule("ghost").weight.device.type == "cpu"
        assert isinstance(module.get_submodule("ghost").weight, nn.Parameter)

    def test_memory_keeps_its_layout(self) -> None:
        conv = on_meta(nn.Conv2d, 4, 2, 3).to(memory_format=torch.channels_last)
        allocate(Tree(conv), torch.device("cpu"))
        assert conv.weight.is_contiguous(memory_format=torch.channels_last)

    def test_storage_for_a_restore_does_not_move_the_generator(self) -> None:
        module = Holder(norm=on_meta(nn.BatchNorm1d, 2), fc=on_meta(nn.Linear, 2, 2), extra=on_meta(Scaled))
        state = torch.get_rng_state()
        materialize(Tree(module), torch.device("cpu"))
        assert torch.equal(torch.get_rng_state(), state)
        assert not any(tensor.is_meta for tensor in module.state_dict().values())

    def test_storage_for_a_restore_that_cannot_be_complete(self) -> None:
        module = Holder(extra=on_meta(Scaled, persistent=False))
        with pytest.raises(InitConfigError, match=r"^extra\.offset: has no values yet"):
            materialize(Tree(module), torch.device("cpu"))
        assert module.get_submodule("extra").scale.is_meta


def test_the_device_of_the_trainer_is_where_storage_comes_from(tmp_path: Path) -> None:
    """``init_module`` of a strategy for one device gives real tensors, and a test of the whole has to know."""
    run = trainer(tmp_path)
    with run.init_module(empty_init=True):
        module: pl.LightningModule = Net()
    assert {parameter.device for parameter in module.parameters()} == {torch.device("cpu")}


def test_resets_draw_from_a_stream_of_their_own() -> None:
    def weight_after(user_seed: int) -> torch.Tensor:
        linear = on_meta(nn.Linear, 3, 3)
        tree = Tree(nn.Sequential(linear))
        torch.manual_seed(user_seed)
        before = torch.get_rng_state()
        allocate(tree, torch.device("cpu"))
        reset(tree, tree.nodes[linear], ["weight", "bias"], seed=1)
        assert torch.equal(torch.get_rng_state(), before)
        weight: torch.Tensor = linear.weight.detach()
        return weight

    assert torch.equal(weight_after(5), weight_after(6))
