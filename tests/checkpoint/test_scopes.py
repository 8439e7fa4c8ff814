"""`Pretrained` together with a scope, with overrides and with `Keep`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_init import CheckpointError, build_plan, init_weights


class Net(nn.Module):
    def __init__(self, hidden: int = 8, classes: int = 4, groups: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.mid = nn.Conv2d(8, 8, 3, groups=groups)
        self.proj = nn.Conv2d(8, hidden, 1)
        self.norm = nn.BatchNorm2d(hidden)
        self.head = nn.Linear(hidden, classes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    state = {
        name: torch.full_like(tensor, 2 + i) if tensor.is_floating_point() else tensor
        for i, (name, tensor) in enumerate(Net().state_dict().items())
    }
    torch.save(state, tmp_path / "w.pth")
    return tmp_path / "w.pth"


@pytest.mark.parametrize(
    ("net", "scope", "reason"),
    [
        (Net(hidden=16), {"layer": "Conv2d"}, "'proj.weight'"),
        (Net(groups=8), {"name": "re:mid|norm"}, "'mid.weight'"),
    ],
)
def test_adapters_see_the_whole_module_whatever_the_scope(
    path: Path, net: Net, scope: dict[str, Any], reason: str
) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(CheckpointError, match="that no adapter takes") as raised:
        init_weights(net, {"type": "Pretrained", "checkpoint": path, "on_mismatch": "adapt", **scope})
    assert reason in str(raised.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_what_is_out_of_scope_is_left_out_and_not_unexpected(path: Path) -> None:
    net = Net(classes=9)
    rules = [
        {"type": "Constant", "layer": "Linear", "val": -1},
        {"type": "Pretrained", "checkpoint": path, "layer": ["Conv2d", "BatchNorm2d"]},
    ]
    report = init_weights(net, rules, require_all=True)
    assert report["stem.weight"].source == "init_cfg[1]"
    assert net.head.weight.eq(-1).all()
    assert report.notes == (f"init_cfg[1]: {path}: 11 loaded, 2 excluded",)


def test_the_shape_of_what_an_override_writes_need_not_fit(path: Path) -> None:
    net = Net(classes=9)
    override = {"name": "head", "type": "Constant", "val": -1, "bias": -2}
    init_weights(net, {"type": "Pretrained", "checkpoint": path, "override": override})
    assert net.stem.weight.eq(2).all()
    assert net.head.weight.eq(-1).all()
    assert net.head.bias.eq(-2).all()


def test_the_shape_of_what_is_kept_need_not_fit(path: Path) -> None:
    net = Net(classes=9)
    head = net.head.weight.clone()
    plan = build_plan(net, [{"type": "Pretrained", "checkpoint": path}, {"type": "Keep", "name": "head"}])
    assert plan["head.weight"].kept_by == "init_cfg[1]"
    init_weights(net, [{"type": "Pretrained", "checkpoint": path}, {"type": "Keep", "name": "head"}])
    assert net.stem.weight.eq(2).all()
    assert torch.equal(net.head.weight, head)


def test_any_other_shape_still_has_to_fit(path: Path) -> None:
    override = {"name": "head", "type": "Constant", "val": -1}
    with pytest.raises(CheckpointError, match=r"'proj.weight': \(8, 8, 1, 1\) in the checkpoint"):
        init_weights(Net(hidden=16), {"type": "Pretrained", "checkpoint": path, "override": override})
