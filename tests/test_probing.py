"""The probe in a Trainer's run: which batch it takes, and that the training is the same with it and without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from lightning_init import InitConfigError, InitError, InitWeightsCallback, WeightStatistics
from lightning_init.batches import first_batch
from lightning_init.report import Finding, InitReport
from tests.trainers import trainer, weights

RULES = {"type": "Kaiming", "layer": "Linear"}


class Lively(pl.LightningModule):
    """Everything in it moves: dropout, BatchNorm, a metric, a list, logged values."""

    def __init__(self, *, is_manual: bool = False) -> None:
        super().__init__()
        self.init_cfg = RULES
        self.body = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(8, 2)
        )
        self.automatic_optimization = not is_manual
        self.metric = WeightStatistics()
        self.losses: list[float] = []
        self.dtypes: set[torch.dtype] = set()
        self.example_input_array = torch.ones(3, 4).cumsum(0)

    def forward(self, given: Tensor) -> Tensor:
        output: Tensor = self.body(given)
        self.dtypes = {output.dtype}
        return output

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        output = self(batch[0])
        loss = nn.functional.cross_entropy(output, batch[1])
        self.log("loss", loss)
        self.log_dict({"same": loss})
        self.metric.update({"output": output})
        self.losses.append(loss.item())
        if self.logger is not None:
            self.logger.log_metrics({"direct": loss.item()}, step=batch_idx)
        if not self.automatic_optimization:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def rows() -> TensorDataset:
    made = torch.Generator().manual_seed(3)
    return TensorDataset(torch.randn(12, 4, generator=made), torch.randint(0, 2, (12,), generator=made))


def loader(generator: torch.Generator | None = None) -> DataLoader[Any]:
    return DataLoader(rows(), batch_size=4, shuffle=True, generator=generator)


def fitted(folder: Path, probe: Any, module: Lively | None = None, **arguments: Any) -> tuple[Lively, InitReport]:
    pl.seed_everything(5)
    module = module or Lively()
    callback = InitWeightsCallback(probe=probe, log=())
    trainer(folder, callback, **{"max_steps": 5, **arguments}).fit(module, loader())
    assert callback.report is not None
    return module, callback.report


def probe_findings(report: InitReport) -> list[Finding]:
    return [finding for finding in report.findings if finding.code == "probe-failed"]


def layers(report: InitReport) -> list[str]:
    return [layer.name for layer in report.signal]


@pytest.mark.parametrize(
    "probe", ["example_input_array", "train_dataloader", (torch.ones(3, 4), torch.zeros(3).long())]
)
def test_the_training_is_the_same_with_and_without(probe: Any, tmp_path: Path) -> None:
    logs = [CSVLogger(tmp_path, name, version=0, flush_logs_every_n_steps=1) for name in ("without", "with")]
    without, plain = fitted(tmp_path, None, logger=logs[0], log_every_n_steps=1)
    generators = torch.get_rng_state()
    probed, report = fitted(tmp_path, probe, logger=logs[1], log_every_n_steps=1)
    assert plain.signal == ()
    assert layers(report) == ["body.0", "body.1", "body.2", "body.4"]
    assert all(layer.gradient_std > 0 for layer in report.signal)
    assert torch.equal(torch.get_rng_state(), generators)
    assert probed.losses == without.losses
    assert probed.metric.records == without.metric.records
    for name, tensor in weights(without).items():
        assert torch.equal(weights(probed)[name], tensor), name
    read = [(Path(log.log_dir) / "metrics.csv").read_text(encoding="utf-8") for log in logs]
    assert read[0] == read[1]
    assert read[0].count("\n") > 5


def test_a_manual_optimization_is_run_forward_only_up_to_its_output(tmp_path: Path) -> None:
    without, _ = fitted(tmp_path, None, Lively(is_manual=True))
    probed, report = fitted(tmp_path, "train_dataloader", Lively(is_manual=True))
    assert layers(report) == ["body.0", "body.1", "body.2", "body.4"]
    assert probed.losses == without.losses
    # The projection of the output, not the loss: of 8 numbers, five standard errors of a std of one.
    assert report.signal[-1].gradient_std == pytest.approx(1, abs=5 / 4)


def test_the_precision_of_the_trainer_applies(tmp_path: Path) -> None:
    seen: list[torch.dtype] = []

    class Net(Lively):
        def forward(self, given: Tensor) -> Tensor:
            output = super().forward(given)
            seen.append(output.dtype)
            return output

    fitted(tmp_path, "example_input_array", Net(), precision="bf16-mixed", max_steps=1)
    assert seen == [torch.bfloat16] * 2


def test_a_module_that_raises_is_a_finding_and_the_training_goes_on(tmp_path: Path) -> None:
    module, report = fitted(tmp_path, torch.ones(3, 5))
    (finding,) = probe_findings(report)
    assert finding.severity == "warning"
    assert "Error" in finding.message
    assert len(module.losses) == 5
    assert report.signal == ()
    assert InitReport.from_json(report.to_json()).findings == report.findings


def test_a_module_without_an_example(tmp_path: Path) -> None:
    module = Lively()
    module.example_input_array = None
    _, report = fitted(tmp_path, "example_input_array", module)
    assert "Lively has no example_input_array" in probe_findings(report)[0].message


def test_an_unknown_name() -> None:
    with pytest.raises(InitConfigError, match=r"InitWeightsCallback.probe: cannot be 'train_dataloder'; did you mean"):
        InitWeightsCallback(probe="train_dataloder")


def test_a_resumed_run_is_not_probed(tmp_path: Path) -> None:
    module, _ = fitted(tmp_path, None)
    module.trainer.save_checkpoint(tmp_path / "last.ckpt")
    callback = InitWeightsCallback(probe="train_dataloader", log=())
    trainer(tmp_path, callback, max_steps=6).fit(Lively(), loader(), ckpt_path=tmp_path / "last.ckpt")
    assert callback.report is None


class Counting(Dataset[int]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> int:
        return index


class Batched(Counting):
    def __getitems__(self, indices: list[int]) -> list[int]:
        return [10 * index for index in indices]


class Stream(IterableDataset[int]):
    """It goes on where it was."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[int]:
        while self.at < 10:
            self.at += 1
            yield self.at


class TestFirstBatch:
    def test_neither_generator_nor_sampler_moves(self) -> None:
        generator = torch.Generator().manual_seed(1)
        made = loader(generator)
        before, whole = generator.get_state(), torch.get_rng_state()
        first = first_batch(made)
        assert [part.shape for part in first] == [(4, 4), (4,)]
        assert torch.equal(generator.get_state(), before)
        for one, other in zip(first, first_batch(made), strict=True):
            assert torch.equal(one, other)
        assert torch.equal(torch.get_rng_state(), whole)

    def test_a_running_iterator_is_not_disturbed(self) -> None:
        made = DataLoader(Counting(), batch_size=2, num_workers=1, persistent_workers=True)
        running = iter(made)
        assert next(running).tolist() == [0, 1]
        assert first_batch(made).tolist() == [0, 1]
        assert [batch.tolist() for batch in running] == [[2, 3], [4, 5], [6, 7], [8, 9]]

    def test_it_is_made_as_the_loader_makes_it(self) -> None:
        assert first_batch(DataLoader(Batched(), batch_size=3)).tolist() == [0, 10, 20]
        assert first_batch(DataLoader(Counting(), batch_size=None)) == 0
        assert first_batch(DataLoader(Counting(), batch_size=2, collate_fn=sum)) == 1
        assert first_batch(DataLoader(Counting(), batch_sampler=[[7, 3], [1]])).tolist() == [7, 3]
        sampler = RandomSampler(Counting(), generator=torch.Generator().manual_seed(0))
        wanted = next(
            iter(
                DataLoader(Counting(), 4, sampler=RandomSampler(Counting(), generator=torch.Generator().manual_seed(0)))
            )
        )
        assert first_batch(DataLoader(Counting(), 4, sampler=sampler)).tolist() == wanted.tolist()

    def test_a_stream_is_copied(self) -> None:
        stream = Stream()
        made = DataLoader(stream, batch_size=3)
        assert first_batch(made).tolist() == [1, 2, 3]
        assert stream.at == 0
        assert next(iter(made)).tolist() == [1, 2, 3]

    def test_a_stream_that_cannot_be_copied_is_told(self) -> None:
        stream: Any = Stream()
        stream.source = (i for i in range(3))
        with pytest.raises(InitError, match=r"Stream cannot be copied .* would take a batch from the training"):
            first_batch(DataLoader(stream, batch_size=3))

    def test_several_loaders(self) -> None:
        made = {"a": DataLoader(Counting(), batch_size=2), "b": [DataLoader(Counting(), batch_size=1), range(3, 5)]}
        found = first_batch(made)
        assert found["a"].tolist() == [0, 1]
        assert found["b"][0].tolist() == [0]
        assert found["b"][1] == 3

    def test_nothing_in_it(self) -> None:
        with pytest.raises(InitError, match="empty"):
            first_batch(DataLoader(Counting(), batch_sampler=[]))
