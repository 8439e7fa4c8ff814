"""On a GPU: the callback on a single device and under FSDP2 with one rank, against the weights of the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn

from lightning_init import InitConfigError, InitWeightsCallback, init_weights
from lightning_init.rng import BLOCK_ELSEWHERE
from lightning_init.settings import RngDevice
from tests.distributed.harness import run_ranks
from tests.everything import PARTS, Everything, hashes, write_checkpoint
from tests.trainers import trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

LAWS = [part for part in PARTS if part != "method"]
"""The parts that rules and checkpoints write. A method draws from the generator of its device."""


class Look(Callback):
    """Takes the hashes when training starts, and ends the run."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.devices = {parameter.device.type for parameter in pl_module.parameters()}
        self.found = hashes(pl_module)
        trainer.should_stop = True


class Spread(Everything):
    """Is sharded even where a rank gets all of it."""

    def configure_model(self) -> None:
        assert self.device_mesh is not None
        self.spread(self.device_mesh["data_parallel"])


def fitted(module: Any, folder: Path, rng_device: RngDevice = "cpu", **arguments: Any) -> dict[str, str]:
    look = Look()
    callback = InitWeightsCallback(seed=0, log=(), rng_device=rng_device)
    trainer(folder, callback, look, **{"accelerator": "gpu", **arguments}).fit(module)
    assert look.devices == {"cuda"}
    assert callback.report is not None
    assert {row.device.partition(":")[0] for row in callback.report} == {"cuda"}
    assert callback.report.is_measured
    return look.found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path)
    return tmp_path


@pytest.fixture
def on_cpu(folder: Path) -> dict[str, str]:
    module = Everything(folder)
    init_weights(module, seed=0)
    return hashes(module)


def of_laws(found: dict[str, str]) -> dict[str, str]:
    return {part: found[part] for part in LAWS}


def test_drawing_on_the_cpu_gives_the_weights_of_the_cpu(folder: Path, on_cpu: dict[str, str]) -> None:
    assert of_laws(fitted(Everything(folder), folder)) == of_laws(on_cpu)


def test_a_module_that_is_there_already(folder: Path, on_cpu: dict[str, str]) -> None:
    module = Everything(folder).cuda()
    report = init_weights(module, seed=0, rng_device="cpu")
    assert of_laws(hashes(module)) == of_laws(on_cpu)
    assert all(row.device.startswith("cuda") for row in report)


def test_drawing_there_repeats_and_leaves_the_generators_alone(folder: Path, on_cpu: dict[str, str]) -> None:
    found = []
    for seed in (1, 2):
        torch.cuda.manual_seed(seed)
        module = Everything(folder).cuda()
        before, on_host = torch.cuda.get_rng_state(), torch.get_rng_state()
        init_weights(module, seed=0)
        assert torch.equal(torch.cuda.get_rng_state(), before)
        assert torch.equal(torch.get_rng_state(), on_host)
        found.append(hashes(module))
    assert found[0] == found[1]
    assert found[0]["laws"] != on_cpu["laws"]
    assert found[0]["pretrained"] == on_cpu["pretrained"]


def test_the_numbers_drawn_there_have_their_law() -> None:
    module = nn.Linear(1000, 1000, device="cuda")
    init_weights(module, {"type": "TruncNormal", "layer": "Linear", "std": 0.02, "cutoff": 2}, seed=0)
    weight = module.weight.detach().double()
    # The standard deviation of N(0, 1) between -2 and 2 is 0.8796; that of the mean of n numbers, std / sqrt(n).
    std = 0.02 * 0.8796
    assert abs(weight.mean().item()) < 5 * std / 1000
    assert weight.std().item() == pytest.approx(std, rel=5e-3)
    assert weight.abs().max().item() <= 0.04 * (1 + 1e-6)


def test_the_numbers_do_not_depend_on_what_was_drawn_before() -> None:
    rule = {"type": "Normal", "layer": "Linear"}
    alone = nn.Linear(3000, 3000, device="cuda")
    second = nn.Linear(3000, 3000, device="cuda")
    behind = nn.Sequential(nn.Linear(500, 500, device="cuda"), second)
    init_weights(nn.ModuleDict({"1": alone}), rule, seed=0)
    init_weights(behind, rule, seed=0)
    assert torch.equal(second.weight, alone.weight)
    # Two blocks, each of a generator of its own.
    flat = alone.weight.detach().flatten()
    assert not torch.equal(flat[:1000], flat[BLOCK_ELSEWHERE : BLOCK_ELSEWHERE + 1000])


def test_a_model_on_meta(folder: Path, on_cpu: dict[str, str]) -> None:
    with torch.device("meta"):
        module = Everything(folder)
    assert of_laws(fitted(module, folder)) == of_laws(on_cpu)


def test_half_precision_is_the_rounded_single(folder: Path) -> None:
    module = Everything(folder)
    init_weights(module, seed=0)
    found = fitted(Everything(folder), folder, precision="bf16-true")
    assert of_laws(found) == of_laws(hashes(module, torch.bfloat16))


def test_what_empty_init_leaves_unset_is_named(folder: Path) -> None:
    callback = InitWeightsCallback(log=())
    made = trainer(folder, callback, accelerator="gpu")
    with made.init_module(empty_init=True):
        module = Everything(folder)
        module.lone = nn.ParameterList([nn.Parameter(nn.init.normal_(torch.empty(3)))])
    with pytest.raises(InitConfigError, match=r"^lone\.0: "):
        made.fit(module)


def sharded(folder: Path, on_meta: bool) -> dict[str, str]:
    with torch.device("meta" if on_meta else "cpu"):
        module = Spread(folder)
    strategy = ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1)
    return fitted(module, folder, strategy=strategy)


@pytest.mark.parametrize("on_meta", [False, True])
def test_fsdp2_with_one_rank(folder: Path, on_cpu: dict[str, str], on_meta: bool) -> None:
    (found,) = run_ranks(1, sharded, folder, on_meta, process_group=False, deadline=110)
    assert of_laws(found) == of_laws(on_cpu)


def test_ddp_with_one_rank(folder: Path, on_cpu: dict[str, str]) -> None:
    (found,) = run_ranks(1, of_ddp, folder, process_group=False, deadline=110)
    assert of_laws(found) == of_laws(on_cpu)


def of_ddp(folder: Path) -> dict[str, str]:
    return fitted(Everything(folder), folder, strategy="ddp")
