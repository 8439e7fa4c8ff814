"""Lightning's own callbacks and tools beside ours: what they do to weights, they do to the declared ones."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, ModelPruning
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.tuner import Tuner
from torch import Tensor, nn

from lightning_init import InitWeightsCallback
from tests.models import constant, value, values
from tests.trainers import Net, Snapshots, loader, trainer, weights


class Backboned(Net):
    """A net whose trained part is found by Lightning under its name."""

    def __init__(self) -> None:
        super().__init__([constant(0.5), constant(0.25, name="backbone")], lr=0.25)
        self.backbone = nn.Linear(2, 2)

    def forward(self, batch: Tensor) -> Tensor:
        return super().forward(self.backbone(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=self.lr)


@pytest.mark.parametrize("first", [False, True], ids=["behind", "before"])
class TestCallbacks:
    def run(self, folder: Path, first: bool, other: pl.Callback, module: Net, **arguments: Any) -> dict[str, Tensor]:
        """What the training started from."""
        ours, seen = InitWeightsCallback(log=()), Snapshots()
        given = [other, ours] if first else [ours, other]
        trainer(folder, *given, seen, **arguments).fit(module)
        assert ours.report is not None
        return seen.at_start[0]

    @pytest.mark.filterwarnings("ignore:The provided params to be frozen.*:UserWarning")
    def test_a_frozen_backbone_starts_from_what_was_declared_and_thaws(self, tmp_path: Path, first: bool) -> None:
        module = Backboned()
        thawing = BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.1)
        found = self.run(tmp_path, first, thawing, module, max_steps=-1, max_epochs=2)
        assert value(found["backbone.weight"]) == value(found["backbone.bias"]) == 0.25
        assert value(found["head.weight"]) == 0.5
        assert not torch.equal(module.backbone.weight, found["backbone.weight"])

    def test_a_frozen_backbone_stays_as_declared(self, tmp_path: Path, first: bool) -> None:
        module = Backboned()
        self.run(tmp_path, first, BackboneFinetuning(unfreeze_backbone_at_epoch=9), module)
        assert value(module.backbone.weight) == 0.25
        assert not torch.equal(module.head.weight, torch.full((1, 3), 0.5))

    def test_pruning_goes_back_to_what_was_declared(self, tmp_path: Path, first: bool) -> None:
        # The lottery ticket: what is not pruned starts again from where it started.
        module = Net(lr=0.25)
        pruning = ModelPruning("l1_unstructured", parameter_names=["weight"], amount=0.5)
        found = self.run(tmp_path, first, pruning, module, max_steps=-1, max_epochs=1)
        assert set(map(value, found.values())) == {0.5}
        kept = torch.cat([module.body.weight.flatten(), module.head.weight.flatten()])
        assert sorted(set(kept.tolist())) == [0.0, 0.5]


class TestTuner:
    def test_scaling_the_batch_size_sees_and_leaves_the_declared_weights(self, tmp_path: Path) -> None:
        class Sized(Net):
            batch_size = 1
            seen: list[float]

            def training_step(self, batch: Tensor) -> Tensor:
                self.seen.append(self.head.weight[0, 0].item())
                return super().training_step(batch)

            def val_dataloader(self) -> Any:
                return loader()

            def train_dataloader(self) -> Any:
                rows: Any = [torch.ones(2)] * 16
                return torch.utils.data.DataLoader(rows, batch_size=self.batch_size)

        module, callback, seen = Sized(lr=0.25), InitWeightsCallback(log=()), Snapshots()
        module.seen = []
        run = trainer(tmp_path, callback, seen)
        Tuner(run).scale_batch_size(module, steps_per_trial=1, max_trials=2, init_val=1)
        assert module.seen[0] == 0.5
        assert set(values(module).values()) == {0.5}
        run.fit(module)
        assert all(value(tensor) == 0.5 for tensor in seen.at_start[-1].values())
        assert callback.report is not None
        assert callback.report["head.weight"].source == "Sized.init_cfg"


class TestRuns:
    def test_overfit_batches(self, tmp_path: Path) -> None:
        seen, callback = Snapshots(), InitWeightsCallback(log=())
        trainer(tmp_path, callback, seen, overfit_batches=1, max_steps=3).fit(Net(lr=0.25))
        assert seen.steps == 3
        assert all(value(tensor) == 0.5 for tensor in seen.at_start[0].values())

    def test_several_loggers_are_told(self, tmp_path: Path) -> None:
        loggers = [CSVLogger(tmp_path, "csv"), TensorBoardLogger(tmp_path, "board")]
        trainer(tmp_path, InitWeightsCallback(log="table"), logger=loggers).fit(Net())
        assert list((tmp_path / "csv").rglob("init_stats.csv"))
        assert list((tmp_path / "board").rglob("events.out*"))

    def test_a_module_that_compiles_itself(self, tmp_path: Path) -> None:
        module, callback, seen = Net(lr=0.25), InitWeightsCallback(log=()), Snapshots()
        module.compile(backend="eager")
        module.body.compile(backend="eager")
        trainer(tmp_path, callback, seen).fit(module)
        assert list(seen.at_start[0]) == ["body.weight", "body.bias", "head.weight", "head.bias"]
        assert all(value(tensor) == 0.5 for tensor in seen.at_start[0].values())
        assert not torch.equal(module.head.weight, seen.at_start[0]["head.weight"])

    def test_a_copy_of_what_was_trained_goes_on_from_there(self, tmp_path: Path) -> None:
        module = Net(lr=0.25)
        trainer(tmp_path, InitWeightsCallback(log=())).fit(module)
        twin, seen = copy.deepcopy(module), Snapshots()
        trained = weights(module)
        trainer(tmp_path, InitWeightsCallback(log=()), seen).fit(twin)
        assert all(torch.equal(tensor, trained[name]) for name, tensor in seen.at_start[0].items())
        assert not torch.equal(trained["head.weight"], torch.full((1, 3), 0.5))
