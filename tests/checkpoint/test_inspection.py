from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_init import build_plan
from lightning_init.checkpoint import inspect
from lightning_init.errors import CheckpointError, InitConfigError
from tests.checkpoint.files import save_safetensors


class Net(nn.Module):
    def __init__(self, classes: int = 3, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 4, 2)
        self.head = nn.Linear(4, classes)


def write(path: Path) -> Path:
    state = {f"module.net.{name}": tensor for name, tensor in Net().state_dict().items()}
    state["module.net.stem.weight"] = state["module.net.stem.weight"].half()
    torch.save({"state_dict": {**state, "module.net.extra": torch.ones(2), "queue": torch.ones(5)}}, path)
    return path


def rows(text: object) -> list[str]:
    return [" ".join(line.split()) for line in str(text).splitlines()]


def test_without_a_module_the_keys_are_shown_with_the_names_they_are_offered_as(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth")
    found = inspect(path, prefix="net", revise_keys=[("^stem", "conv")], exclude="extra", into="backbone")
    assert rows(found) == [
        str(path),
        "key shape dtype state name",
        "module.net.stem.weight 4x3x2x2 float16 offered backbone.conv.weight",
        "module.net.stem.bias 4 float32 offered backbone.conv.bias",
        "module.net.head.weight 3x4 float32 offered backbone.head.weight",
        "module.net.head.bias 3 float32 offered backbone.head.bias",
        "module.net.extra 2 float32 excluded -",
        "queue 5 float32 outside -",
    ]
    assert found["queue"].shape == (5,)
    assert [key.key for key in found][-1] == "queue"
    with pytest.raises(KeyError):
        _ = found["net.queue"]


def test_with_a_module_every_key_has_its_fate(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth")
    with torch.device("meta"):
        net = Net(classes=7, channels=1)
        net.more = nn.Linear(1, 1, bias=False)
    found = inspect(path, net, prefix="net.", on_mismatch="adapt", adapters=["input_conv"], exclude="head")
    assert rows(found) == [
        str(path),
        "key shape dtype state name",
        "module.net.stem.weight 4x3x2x2 float16 loaded stem.weight 3 -> 1 input channels: summed, float16 -> float32",
        "module.net.stem.bias 4 float32 loaded stem.bias",
        "module.net.head.weight 3x4 float32 excluded -",
        "module.net.head.bias 3 float32 excluded -",
        "module.net.extra 2 float32 unexpected -",
        "queue 5 float32 outside -",
        "- - - missing more.weight",
    ]
    states = inspect(path, net, prefix="net", on_mismatch="skip", include=["head", "stem.bias"])
    assert [(key.state, key.detail) for key in states][2:4] == [
        ("mismatched", "wanted (7, 4)"),
        ("mismatched", "wanted (7,)"),
    ]


def test_a_tied_parameter_takes_one_key(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    torch.save({name: tensor.clone() for name, tensor in net.state_dict().items()}, tmp_path / "w.pth")
    net[1].weight = net[0].weight
    assert [(key.key, key.state) for key in inspect(tmp_path / "w.pth", net)] == [
        ("0.weight", "tied"),
        ("1.weight", "loaded"),
    ]


def test_it_raises_what_the_rule_would_raise(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"no key of .* match with prefix='net.'"):
        inspect(path, Net())
    with pytest.raises(CheckpointError, match=r"'head.weight': \(3, 4\) in the checkpoint"):
        inspect(path, Net(classes=2), prefix="net")
    with pytest.raises(InitConfigError, match="min_match: is a fraction"):
        inspect(path, min_match=2)


def test_nothing_is_read_or_written(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    net = Net()
    save_safetensors(net.state_dict(), path)
    # The values are gone from the file; names and shapes are not.
    head = path.read_bytes()[: -4 * sum(parameter.numel() for parameter in net.parameters())]
    path.write_bytes(head.ljust(path.stat().st_size, b"\xff"))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert {key.state for key in inspect(path, net)} == {"loaded"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_the_plan_names_the_key_of_every_parameter(tmp_path: Path) -> None:
    write(tmp_path / "w.pth")
    rule = {"type": "Pretrained", "checkpoint": tmp_path / "w.pth", "prefix": "net", "exclude": "head.bias"}
    with torch.device("meta"):
        net = Net()
    lines = rows(build_plan(net, [rule, {"type": "Constant", "layer": "Linear", "val": 0}]))
    assert lines[1:5] == [
        "stem.weight 4x3x2x2 [1] module.net.stem.weight (float16 -> float32)",
        "stem.bias 4 [1] module.net.stem.bias",
        "head.weight 3x4 [1] module.net.head.weight [2]",
        "head.bias 3 [3]",
    ]


def test_without_a_module_a_pattern_that_matches_nothing_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth")
    found = inspect(path, prefix="net", include=["stem", "haed"], exclude="bias_of_the_module")
    assert found.notes == (f"include[1]: 'haed' matches no name in {str(path)!r}; did you mean 'head'?",)


def test_an_argument_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(InitConfigError) as caught:
        inspect(tmp_path / "gone.pth", includ="stem")
    assert str(caught.value) == "includ: unknown argument of Pretrained; did you mean 'include' or 'exclude'?"
