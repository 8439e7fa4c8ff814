"""The README tells the truth: its code runs, its messages are those that come, its tables name what exists."""

from __future__ import annotations

import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from lightning_init import (
    INITIALIZERS,
    CheckpointError,
    InitConfigError,
    InitWarning,
    InitWeightsCallback,
    build_plan,
    init_weights,
)
from lightning_init.checkpoint.formats.containers import CONTAINERS
from lightning_init.checkpoint.matching.adapters import ADAPTERS
from lightning_init.checkpoint.matching.naming import WRAPPER_PARTS
from lightning_init.checkpoint.pretrained import PretrainedInit
from lightning_init.checkpoint.sources.registry import SOURCES
from lightning_init.config import read
from lightning_init.rng import BLOCK, BLOCK_ELSEWHERE

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def block_with(text: str) -> str:
    (found,) = (str(block) for block in BLOCKS if text in block)
    return found


class LitNet(L.LightningModule):
    init_cfg: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.head = nn.Linear(1, 1)


def message_of(init_cfg: Any) -> str:
    net = LitNet()
    net.init_cfg = init_cfg
    with pytest.raises((InitConfigError, CheckpointError)) as raised:
        init_weights(net, seed=0)
    return f"{raised.type.__name__}: {raised.value}"


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("block", BLOCKS, ids=[block.splitlines()[0] for block in BLOCKS])
def test_every_block_is_python(block: str) -> None:
    compile(block, "README.md", "exec")


def test_the_plan_of_the_readme_prints_winners_and_losers(capsys: pytest.CaptureFixture[str]) -> None:
    exec(block_with("from lightning_init import build_plan"), {})  # noqa: S102 - our own page
    printed = capsys.readouterr().out
    assert re.search(r"^2.weight +4x16x1x1 +\[5\] +\[1\]$", printed, re.MULTILINE)
    assert "bias_prob=0.01" in printed


def test_the_use_without_a_trainer_runs(capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, Any] = {}
    exec(block_with("import init_weights, initialize, normal_init"), scope)  # noqa: S102 - our own page
    assert "expected std" in capsys.readouterr().out
    assert scope["model"][2].weight.eq(0).all()
    assert scope["report"]["2.weight"].source == "init_cfg"


def test_the_own_initializer_of_the_readme_is_found_by_its_name() -> None:
    try:
        exec(block_with("FanInNormalInit"), {})  # noqa: S102 - our own page
        (entry, _) = build_plan(nn.Linear(4, 4), {"type": "FanInNormal", "layer": "Linear", "scale": 2})
        assert entry.winner is not None
        assert entry.winner.what == "FanInNormal(scale=2)"
    finally:
        INITIALIZERS._classes.pop("FanInNormal", None)


def test_the_recipe_for_attention_and_recurrent_weights_matches_every_parameter_it_names() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
            self.attention = nn.MultiheadAttention(4, 1)
            self.rnn = nn.LSTM(4, 4)

    scope: dict[str, Any] = {}
    exec(block_with("in_proj_weight"), scope)  # noqa: S102 - our own page
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = init_weights(Net(), scope["init_cfg"], strict=True)
    assert report.untouched == ["attention.out_proj.weight", "attention.out_proj.bias"]


def test_the_gallery_of_errors_shows_what_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = one_line(README)
    config = [
        {"type": "Kaimin", "layer": "Conv2d"},
        {"type": "Normal", "override": [{"name": "head", "type": "Normal", "std": -1}]},
        {"type": "Normal", "layer": "Linear", "override": {"name": "head", "val": 1}},
    ]
    assert one_line(message_of(config)) in readme
    monkeypatch.chdir(tmp_path)
    torch.save({f"backbone.{key}": value for key, value in LitNet().state_dict().items()}, "backbone.pth")
    load = [{"type": "Kaiming", "layer": "Conv2d"}, {"type": "Pretrained", "checkpoint": "backbone.pth"}]
    assert one_line(message_of(load)) in readme
    net = LitNet()
    net.init_cfg = [{"type": "Kaiming", "layer": "Conv2D"}]
    with pytest.warns(InitWarning) as told:
        init_weights(net)
    assert f"InitWarning: {told[0].message}" in readme


def test_the_table_of_initializers_names_those_that_exist() -> None:
    section = README.partition("### Initializers")[2].partition("```")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert named == {name for name, cls in INITIALIZERS.items() if cls.__module__.startswith("lightning_init.")}


def test_the_arguments_of_pretrained_are_those_of_the_readme() -> None:
    told = re.search(r"^\| `Pretrained` \| `(.*?)` \|", README, re.MULTILINE)
    assert told is not None
    shown = []
    for name, parameter in inspect.signature(PretrainedInit).parameters.items():
        given = {"()": "[]"}.get(repr(parameter.default), f"{parameter.default!r}".replace("'", '"'))
        shown.append(name if parameter.default is parameter.empty else f"{name}={given}")
    assert told[1] == ", ".join(shown)


def test_the_section_on_checkpoints_names_what_there_is() -> None:
    section = README.partition("## Checkpoints")[2].partition("\n## ")[0]
    adapters = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted(adapters) == sorted(
        name for name, adapter in ADAPTERS.items() if adapter.__module__.startswith("lightning_init.")
    )
    (containers,) = re.findall(r"^1\. The container: (.*?), or the one", section, re.MULTILINE)
    assert tuple(re.findall(r"`(\w+)`", containers)) == CONTAINERS
    (wrappers,) = re.findall(r"^2\. The key as it is(.*?), wherever", section, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`(\w+)\.`", wrappers)) == WRAPPER_PARTS
    schemes = set(re.findall(r"`(\w+)://", section))
    assert set(SOURCES) - {"http"} <= schemes
    scope: dict[str, Any] = {}
    exec(block_with("hf://org/name"), scope)  # noqa: S102 - our own page
    (rule,), faults = read(scope["init_cfg"], "init_cfg")
    assert not faults
    assert isinstance(rule.initializer, PretrainedInit)


def test_the_extras_of_the_readme_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = re.findall(r"^(\w+) = \[", project.partition("[project.optional-dependencies]")[2], re.MULTILINE)
    named = {
        name
        for group in re.findall(r"(?:lightning-init|pip install \"\.)\[([\w,]+)\]", README)
        for name in group.split(",")
    }
    assert {"hub", "s3", "tensorboard"} <= named <= set(extras)


def test_the_dry_run_of_the_readme_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(block_with("import inspect"), {})  # noqa: S102 - our own page
    assert f"```\n{capsys.readouterr().out}```" in README


def test_the_adapter_of_the_readme_grows_a_vocabulary(tmp_path: Path) -> None:
    try:
        exec(block_with("register_adapter"), {})  # noqa: S102 - our own page
        torch.save({"weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}, tmp_path / "w.pth")
        net = nn.Embedding(3, 2)
        rule = {"type": "Pretrained", "checkpoint": tmp_path / "w.pth", "on_mismatch": "adapt"}
        report = init_weights(net, {**rule, "adapters": ["vocabulary"]})
        assert net.weight.tolist() == [[1, 2], [3, 4], [2, 3]]
        assert any("2 rows kept, 1 new ones start from their mean" in note for note in report.notes)
    finally:
        ADAPTERS._users.pop("vocabulary", None)


def test_the_arguments_of_the_callback_are_those_of_the_readme() -> None:
    told = README.partition("```\nInitWeightsCallback(")[2].partition("```")[0]
    for name, parameter in inspect.signature(InitWeightsCallback).parameters.items():
        shown = f"{parameter.default!r}".replace("'", '"')
        assert f"{name}={shown}" in told, name
        assert f"| `{name}` |" in README


def test_the_block_size_of_the_readme_is_that_of_the_streams() -> None:
    sizes = [size.bit_length() - 1 for size in (BLOCK, BLOCK_ELSEWHERE)]
    assert "2^{} elements on the CPU, 2^{} elsewhere".format(*sizes) in README
