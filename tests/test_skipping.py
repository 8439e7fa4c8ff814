"""Constructors that leave out numbers: which, what becomes of them, and that nobody trains on what is not there."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_init import InitConfigError, InitWeightsCallback, init_weights, initialize, skip_default_init
from lightning_init.skipping import left_out
from lightning_init.tree import Tree
from tests.models import Holder, constant, digests, value
from tests.trainers import Net, Snapshots, trainer

NORMAL = {"type": "Normal", "layer": ["Linear", "Conv2d"]}


def nan_at_an_end(module: nn.Module) -> list[str]:
    flat = {name: parameter.detach().flatten() for name, parameter in module.named_parameters()}
    return [name for name, values in flat.items() if values[0].isnan() or values[-1].isnan()]


def names_left_out(module: nn.Module) -> list[str]:
    tree = Tree(module)
    return sorted(f"{tree.nodes[part].path}.{name}" for part, name in left_out(tree))


class Custom(nn.Module):
    """A module of a user's, with values of several makes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.by_init = nn.Parameter(torch.empty(3))
        self.by_hand = nn.Parameter(torch.empty(3))
        self.of_child = nn.Linear(3, 3)
        nn.init.constant_(self.of_child.weight, 7)
        nn.init.zeros_(self.by_init)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.by_init)
        nn.init.constant_(self.fc.bias, 4)
        self.by_hand.data.fill_(2)


BUILT: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(3, 4),
    "conv": lambda: nn.Conv2d(3, 4, 3),
    "transposed": lambda: nn.ConvTranspose1d(3, 4, 3),
    "embedding": lambda: nn.Embedding(5, 3, padding_idx=0),
    "batch norm": lambda: nn.BatchNorm2d(3),
    "layer norm": lambda: nn.LayerNorm(3),
    "rms norm": lambda: nn.RMSNorm(3),
    "lstm": lambda: nn.LSTM(3, 4, num_layers=2),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "transformer": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2, enable_nested_tensor=False),
    "custom": Custom,
}


def built(name: str) -> nn.Module:
    # Attention has a method of another name, which is not left out.
    torch.manual_seed(0)
    with skip_default_init():
        return BUILT[name]()


@pytest.mark.parametrize("name", BUILT)
def test_what_no_rule_writes_is_as_on_meta(name: str) -> None:
    """Each module gets by its ``reset_parameters`` what it was not given: nothing stays unset."""
    module = built(name)
    assert nan_at_an_end(module) or name == "attention"
    report = init_weights(module, [], seed=3)
    assert nan_at_an_end(module) == []
    assert names_left_out(module) == []
    assert all(torch.isfinite(p).all() for p in module.parameters())
    again = built(name)
    init_weights(again, [], seed=3)
    assert digests(again) == digests(module)
    if name == "linear":
        assert report["weight"].source == "Linear.reset_parameters"


def test_left_out_are_the_layers_defaults_alone() -> None:
    with skip_default_init():
        net = Custom()
    assert names_left_out(net) == [".by_init", "fc.weight", "of_child.bias"]
    assert net.fc.bias.eq(4).all()
    assert net.of_child.weight.eq(7).all()
    assert net.by_hand.eq(2).all()


def test_what_a_layer_resets_without_reset_parameters_is_made() -> None:
    with skip_default_init():
        attention = nn.MultiheadAttention(4, 2)
    assert torch.isfinite(attention.in_proj_weight).all()
    assert nan_at_an_end(attention) == ["out_proj.weight"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_rules_give_the_weights_that_they_always_give(dtype: torch.dtype) -> None:
    def net(*, skip: bool) -> nn.Module:
        def make() -> nn.Module:
            return Holder(a=nn.Linear(40, 30), b=nn.Conv2d(3, 8, 3), n=nn.BatchNorm2d(8)).to(dtype)

        if not skip:
            return make()
        with skip_default_init():
            return make()

    plain, skipped = net(skip=False), net(skip=True)
    init_weights(plain, NORMAL, seed=1)
    init_weights(skipped, NORMAL, seed=1)
    assert digests(plain) == digests(skipped)


def test_a_copy_and_a_pickled_one_know_what_was_left_out() -> None:
    original = built("transformer")
    for twin in (copy.deepcopy(original), pickle.loads(pickle.dumps(original)), copy.deepcopy(original).bfloat16()):  # noqa: S301
        assert names_left_out(twin) == names_left_out(original)
        init_weights(twin, [], seed=0)
        assert nan_at_an_end(twin) == []


def test_what_has_been_written_since_stands() -> None:
    with skip_default_init():
        net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].load_state_dict({"weight": torch.full((2, 2), 5.0), "bias": torch.full((2,), 6.0)})
    net.get_parameter("1.weight").data.fill_(7)
    net[1].bias = nn.Parameter(torch.full((2,), 8.0))
    init_weights(net, [], seed=0)
    assert [p.detach().flatten()[0].item() for p in net[:2].parameters()] == [5, 6, 7, 8]
    assert torch.isfinite(net.get_parameter("2.weight")).all()


def test_a_constructor_outside_and_a_later_reset_are_not_touched() -> None:
    before = nn.Linear(2, 2)
    state = digests(before)
    with skip_default_init():
        inside = nn.Linear(2, 2)
        nn.init.constant_(inside.bias, 3)
        inside.weight.detach().fill_(4)
        assert digests(before) == state
        before.reset_parameters()
    assert digests(before) != state
    assert torch.isfinite(before.weight).all()
    assert (inside.bias.tolist(), inside.weight.tolist()) == ([3, 3], [[4, 4], [4, 4]])
    assert torch.isfinite(nn.Linear(2, 2).weight).all()


class Half(nn.Module):
    """Its ``reset_parameters`` does in its constructor more than later."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(2))
        self.is_made = False
        self.reset_parameters()
        self.is_made = True

    def reset_parameters(self) -> None:
        if not self.is_made:
            nn.init.ones_(self.scale)


def test_what_nothing_sets_is_an_error_that_names_it() -> None:
    with skip_default_init():
        net = Holder(part=Half())
    with pytest.raises(InitConfigError, match=r"^part\.scale: has no values yet .*skip_default_init"):
        init_weights(net, [], seed=0)
    init_weights(net, {"type": "Constant", "params": "scale", "val": 2}, seed=0)
    assert net.get_parameter("part.scale").tolist() == [2, 2]


def test_initialize_writes_what_its_config_says_and_leaves_the_rest_marked() -> None:
    with skip_default_init():
        net = Holder(a=nn.Linear(2, 2), b=nn.Linear(2, 2))
    initialize(net, {"type": "Constant", "name": "a", "val": 1})
    assert names_left_out(net) == ["b.bias", "b.weight"]


def test_on_meta_it_changes_nothing() -> None:
    with torch.device("meta"), skip_default_init():
        net = nn.Linear(2, 2)
    assert net.weight.is_meta
    assert names_left_out(net) == []


def test_the_random_state_is_not_used() -> None:
    before = torch.get_rng_state()
    with skip_default_init():
        nn.Linear(5, 5)
    assert torch.equal(before, torch.get_rng_state())
    tensor: Tensor = nn.init.normal_(torch.empty(3))
    assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("empty", [None, False, True], ids=["plain", "init_module", "empty_init"])
def test_under_a_trainer_new_and_resumed(tmp_path: Path, empty: bool | None) -> None:
    def made(*init_cfg: dict[str, Any], **arguments: Any) -> tuple[Any, Net, Snapshots]:
        seen = Snapshots()
        run = trainer(tmp_path, InitWeightsCallback(log=(), seed=3), seen, **arguments)
        with nullcontext() if empty is None else run.init_module(empty_init=empty), skip_default_init():
            module = Net([constant(0.5, name="body"), *init_cfg])
        return run, module, seen

    torch.save({"head.weight": torch.full((1, 3), 4.0)}, tmp_path / "w.pt")
    run, module, seen = made({"type": "Pretrained", "checkpoint": str(tmp_path / "w.pt")})
    run.fit(module)
    (start,) = seen.at_start
    assert value(start["body.weight"]) == 0.5
    assert value(start["head.weight"]) == 4
    # A layer of three inputs resets its bias within 1 / sqrt(3).
    assert 0 < start["head.bias"].abs() < 0.58
    assert run.callbacks[0].report["head.bias"].source == "Linear.reset_parameters"
    run.save_checkpoint(tmp_path / "last.ckpt")
    run, module, seen = made({"type": "Pretrained", "checkpoint": str(tmp_path / "gone.pt")}, max_steps=2)
    run.fit(module, ckpt_path=tmp_path / "last.ckpt")
    assert all(torch.equal(tensor, start[name]) for name, tensor in seen.at_start[0].items())
