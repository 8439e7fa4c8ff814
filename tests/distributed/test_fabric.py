"""`init_weights` in Fabric's processes, before and after `Fabric.setup`."""

from __future__ import annotations

from functools import partial

import lightning as L
import pytest
import torch
from lightning.fabric.strategies import DDPStrategy
from torch import nn

from lightning_init import init_weights
from tests.distributed.guarantees import assert_guarantees
from tests.distributed.harness import find_free_port
from tests.distributed.models import LitNet, told
from tests.distributed.scripts import Found, attempts, found_by, keep, run_function


def trained(fabric: L.Fabric) -> list[float]:
    """A weight behind the initialisation of a module that was set up with its optimizer, and behind a step."""
    module = LitNet()
    model, optimizer = fabric.setup(module, torch.optim.SGD(module.parameters(), lr=0.1))
    init_weights(model, {"type": "Constant", "name": "plain", "val": 0.5}, seed=5)
    held = [module.plain.weight.mean().item()]
    fabric.backward(model(torch.ones(2, 8)).square().mean())
    optimizer.step()
    return [*held, module.plain.weight.mean().item()]


def script(folder: str) -> None:
    strategy = DDPStrategy(process_group_backend="gloo", find_unused_parameters=True)
    fabric = L.Fabric(accelerator="cpu", strategy=strategy, devices=2)
    fabric.launch()
    found = {f"{case} (before)": outcome for case, outcome in attempts(folder, lambda module: module).items()}
    keep(folder, {**found, **attempts(folder, fabric.setup_module), "trained": told(partial(trained, fabric))})


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    folder = tmp_path_factory.mktemp("fabric")
    run_function(script, folder, env={"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_port())})
    return found_by(folder, 2)


def test_ranks_agree_before_they_are_set_up_and_errors_reach_all_of_them(ranks: list[Found]) -> None:
    ending = " (before)"
    assert_guarantees(
        [{case.removesuffix(ending): found[case] for case in found if case.endswith(ending)} for found in ranks]
    )


def test_so_they_do_afterwards(ranks: list[Found]) -> None:
    assert_guarantees(ranks)


def test_an_optimizer_that_is_set_up_already_trains_what_was_written(ranks: list[Found]) -> None:
    zero, one = (found["trained"] for found in ranks)
    assert zero.value == one.value, (zero, one)
    assert zero.value[0] == 0.5
    assert zero.value[1] != 0.5


def test_a_single_process() -> None:
    fabric = L.Fabric(accelerator="cpu", devices=1)
    model = fabric.setup_module(nn.Linear(2, 2))
    init_weights(model, {"type": "Constant", "layer": "Linear", "val": 3})
    assert model.weight.tolist() == [[3, 3], [3, 3]]
