"""The same seed gives the same weights, whatever else differs: runs are compared with each other, bit for bit."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from lightning_init import init_weights, initialize
from lightning_init.initializers.base import INITIALIZERS
from lightning_init.rng import BLOCK
from tests.models import Holder, digests, threads

# torch.compile imports what torch itself deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")

# Weights of more than a block, and every kind of law.
RULES = [
    {"type": "Normal", "layer": "Linear", "std": 0.02},
    {"type": "Kaiming", "layer": "Conv2d", "distribution": "uniform"},
    {"type": "TruncNormal", "layer": "Embedding", "std": 0.02, "cutoff": 2},
    {"type": "Uniform", "params": "bias"},
]


def parts() -> dict[str, nn.Module]:
    return {
        "conv": nn.Conv2d(16, 700, 5),
        "embed": nn.Embedding(300, 16),
        "block": Holder(fc=nn.Linear(16, 16), head=nn.Linear(16, 300)),
    }


def weights(change: Callable[[nn.Module], nn.Module] = lambda net: net, seed: int = 1, **rest: Any) -> dict[str, str]:
    """The digests of a network of its own, initialised."""
    net = Holder(**parts())
    init_weights(change(net), RULES, seed=seed, **rest)
    return digests(net)


def compiled(module: nn.Module) -> nn.Module:
    """Wrapped for compilation, which waits for a first call."""
    wrapped = torch.compile(module)
    assert isinstance(wrapped, nn.Module)
    return wrapped


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    return weights()


def test_there_is_more_than_one_block() -> None:
    conv = parts()["conv"]
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.numel() > BLOCK


def test_the_same_seed_gives_the_same_bits(expected: dict[str, str]) -> None:
    torch.manual_seed(99)
    assert weights() == expected


def test_another_seed_gives_other_numbers_everywhere(expected: dict[str, str]) -> None:
    other = weights(seed=2)
    assert [name for name in expected if other[name] == expected[name]] == []


def test_the_members_of_an_ensemble_differ() -> None:
    members = [weights(seed=i) for i in range(4)]
    assert len({tuple(member.values()) for member in members}) == 4


def test_other_names_give_other_numbers() -> None:
    net = Holder(a=nn.Linear(8, 8), b=nn.Linear(8, 8), c=Holder(a=nn.Linear(8, 8)))
    initialize(net, [{"type": "Normal", "layer": "Linear"}, {"type": "Normal", "params": "bias"}], seed=0)
    assert len(set(digests(net).values())) == 6


def test_the_order_of_registration_does_not_count(expected: dict[str, str]) -> None:
    def reversed_(net: nn.Module) -> nn.Module:
        for module in net.modules():
            for held in (module._modules, module._parameters):
                turned = dict(reversed(held.items()))
                held.clear()
                held.update(turned)  # type: ignore[arg-type]  # each gets its own back
        return net

    net = reversed_(Holder(**parts()))
    assert next(name for name, _ in net.named_parameters()) == "block.head.bias"
    init_weights(net, RULES, seed=1)
    assert digests(net) == expected


def test_what_else_is_in_the_model_does_not_count(expected: dict[str, str]) -> None:
    net = Holder(first=nn.Linear(3, 3), **parts(), last=nn.Conv2d(1, 1, 1))
    init_weights(net, RULES, seed=1)
    found = digests(net)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_number_of_threads_does_not_count(expected: dict[str, str], n: int) -> None:
    with threads(n):
        assert weights() == expected


def test_the_process_does_not_count(expected: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "digests.json"
    code = (
        f"import json, pathlib; from tests.test_streams import weights; "
        f"pathlib.Path({str(path)!r}).write_text(json.dumps(weights()))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=Path(__file__).parent.parent)
    assert json.loads(path.read_text(encoding="utf-8")) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.to(memory_format=torch.channels_last),
        nn.DataParallel,
        compiled,
        checkpoint_wrapper,
        copy.deepcopy,
        lambda net: nn.DataParallel(compiled(net)),
    ],
    ids=["channels_last", "DataParallel", "compile", "checkpoint_wrapper", "deepcopy", "both"],
)
def test_wrappers_and_layouts_do_not_count(expected: dict[str, str], change: Callable[[nn.Module], nn.Module]) -> None:
    net = change(Holder(**parts()))
    report = init_weights(net, RULES, seed=1)
    assert {name.replace("_orig_mod.", "") for name in digests(net)} == set(expected)
    assert [digests(net)[row.name] for row in report] == list(expected.values())


def test_wrapped_parts_do_not_count(expected: dict[str, str]) -> None:
    made = parts()
    made["block"].add_module("fc", checkpoint_wrapper(made["block"].get_submodule("fc")))
    net = Holder(conv=compiled(made["conv"]), embed=nn.DataParallel(made["embed"]), block=compiled(made["block"]))
    init_weights(net, RULES, seed=1)
    assert digests(net) == expected


def test_a_genuine_part_called_module_keeps_its_name() -> None:
    genuine, plain = Holder(module=nn.Linear(8, 8)), nn.DataParallel(nn.Linear(8, 8))
    rule = {"type": "Normal", "layer": "Linear"}
    reports = [initialize(net, rule, seed=1) for net in (genuine, plain)]
    assert [[row.name for row in report] for report in reports] == [
        ["module.weight", "module.bias"],
        ["weight", "bias"],
    ]
    assert digests(genuine)["module.weight"] != digests(plain)["weight"]


@pytest.mark.parametrize("first", ["embed", "block"])
def test_tied_or_not_under_the_smallest_name(expected: dict[str, str], first: str) -> None:
    made = parts()
    made["embed"] = nn.Embedding(300, 16)
    made["block"].get_submodule("head").weight = made["embed"].weight
    net = Holder(**{first: made.pop(first)}, **made)
    untied = Holder(**parts())
    rules = [*RULES, {"type": "Normal", "std": 0.02, "name": "block.head.weight"}]
    for one in (net, untied):
        init_weights(one, rules, seed=1)
    found = digests(net)
    assert sum(name in found for name in ("embed.weight", "block.head.weight")) == 1
    # The stream is that of the smallest name, and so no other parameter has it.
    assert found.get("block.head.weight", found.get("embed.weight")) == digests(untied)["block.head.weight"]


def test_by_whatever_rule_and_through_whichever_call(expected: dict[str, str]) -> None:
    net, other = Holder(**parts()), Holder(RULES, **parts())
    initialize(net, [{"type": "Constant", "val": 3, "layer": ["Linear", "Conv2d"]}, *RULES], seed=1)
    init_weights(other, seed=1)
    assert digests(net) == digests(other) == expected


def test_a_config_on_a_part_has_the_names_of_the_root() -> None:
    inner = Holder([{"type": "Normal", "layer": "Linear"}], fc=nn.Linear(8, 8))
    init_weights(by_part := Holder(inner=inner), seed=1)
    init_weights(by_root := Holder([{"type": "Normal", "layer": "Linear"}], inner=Holder(fc=nn.Linear(8, 8))), seed=1)
    init_weights(alone := Holder([{"type": "Normal", "layer": "Linear"}], fc=nn.Linear(8, 8)), seed=1)
    assert digests(by_part) == digests(by_root)
    assert digests(alone)["fc.weight"] != digests(by_root)["inner.fc.weight"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_the_rounded_single(dtype: torch.dtype) -> None:
    single, half = Holder(**parts()), Holder(**parts()).to(dtype)
    for net in (single, half):
        init_weights(net, RULES, seed=1)
    assert digests(single.to(dtype)) == digests(half)


def test_the_default_dtype_and_device_do_not_count(expected: dict[str, str]) -> None:
    net = Holder(**parts())
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        init_weights(net, RULES, seed=1)
    assert digests(net) == expected


def test_drawing_on_the_cpu_is_the_same_there(expected: dict[str, str]) -> None:
    assert weights(rng_device="cpu") == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
class TestOnAGpu:
    def test_drawing_on_the_cpu_gives_the_bits_of_the_cpu(self, expected: dict[str, str]) -> None:
        assert weights(lambda net: net.cuda(), rng_device="cpu") == expected

    def test_drawing_there_gives_bits_of_its_own_that_repeat(self, expected: dict[str, str]) -> None:
        one, other = weights(lambda net: net.cuda()), weights(lambda net: net.cuda())
        assert one == other
        assert one["conv.weight"] != expected["conv.weight"]

    def test_methods_repeat_and_leave_the_generators_alone(self) -> None:
        class Draws(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(8, 8, device="cuda")

            def init_weights(self) -> None:
                nn.init.normal_(self.fc.weight)

        one, other = Draws(), Draws()
        state = torch.cuda.get_rng_state()
        init_weights(one, seed=1)
        assert torch.equal(torch.cuda.get_rng_state(), state)
        torch.cuda.manual_seed(5)
        state = torch.cuda.get_rng_state()
        init_weights(other, seed=1)
        assert digests(one)["fc.weight"] == digests(other)["fc.weight"]
        assert torch.equal(torch.cuda.get_rng_state(), state)


NEEDED = {"Constant": {"val": 1}, "DepthScaled": {"depth": 2}}
"""What some initializers cannot do without."""


@pytest.mark.parametrize("name", [name for name in INITIALIZERS if name not in ("Keep", "Pretrained")])
def test_nothing_about_memory_reaches_the_numbers(name: str) -> None:
    """Whatever the tensor held before, and wherever it starts."""
    found: list[Tensor] = []
    for before in (float("nan"), 1e30):
        conv = nn.Conv1d(11, 65, 3)
        buffer = torch.full((33 * 65 + 3,), before)
        conv.weight = nn.Parameter(buffer[3:].view(65, 11, 3))
        initialize(conv, {"type": name, "layer": "Conv1d", **NEEDED.get(name, {})}, seed=1)
        found.append(conv.weight.detach().clone())
    assert torch.equal(*found)
    assert found[0].isfinite().all()
