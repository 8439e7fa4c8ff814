from __future__ import annotations

import dataclasses
import logging
import pickle
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from lightning_init.checkpoint.pretrained import PretrainedInit
from lightning_init.checkpoint.slots import copy_, targets
from lightning_init.errors import CheckpointError, InitConfigError
from lightning_init.initializers.base import INITIALIZERS
from lightning_init.tree import slots


def net(seed: int, width: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Conv2d(2, width, 3), nn.BatchNorm2d(width), nn.Linear(4, 2))
    norm = made[1]
    assert isinstance(norm.running_mean, Tensor)
    assert isinstance(norm.num_batches_tracked, Tensor)
    norm.running_mean.normal_()
    norm.num_batches_tracked.fill_(seed)
    return made


def state(module: nn.Module) -> dict[str, bytes]:
    return {
        name: tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        for name, tensor in module.state_dict().items()
    }


@pytest.fixture(autouse=True)
def _keep_the_seed() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


def test_it_is_registered() -> None:
    assert INITIALIZERS["Pretrained"] is PretrainedInit


def wrapped(change: Callable[[str], str]) -> Callable[[dict[str, Tensor]], object]:
    return lambda weights: {change(key): value for key, value in weights.items()}


@pytest.mark.parametrize(
    "content",
    [
        lambda weights: weights,
        lambda weights: {"epoch": 3, "state_dict": weights, "hyper_parameters": {"lr": 0.1}},
        lambda weights: {"model_ema": weights, "decay": 0.9},
        lambda weights: {"model": {"state_dict": weights}},
        wrapped(lambda key: f"module.{key}"),
        wrapped(lambda key: f"_orig_mod.{key}"),
        wrapped(lambda key: f"module._orig_mod.{key.replace('.', '._orig_mod.', 1)}"),
    ],
)
def test_every_bit_of_parameters_and_buffers(tmp_path: Path, content: Callable[[object], object]) -> None:
    saved, loaded = net(1), net(2)
    torch.save(content(saved.state_dict()), tmp_path / "w.pth")
    held = dict(loaded.named_parameters())
    PretrainedInit(tmp_path / "w.pth")(loaded)
    assert state(loaded) == state(saved)
    assert all(parameter is held[name] for name, parameter in loaded.named_parameters())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in loaded.parameters())


def test_the_file_does_not_change_with_the_weights(tmp_path: Path) -> None:
    torch.save(net(1).state_dict(), tmp_path / "w.pth")
    before = (tmp_path / "w.pth").read_bytes()
    loaded = net(2)
    PretrainedInit(tmp_path / "w.pth")(loaded)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.zero_()
    assert (tmp_path / "w.pth").read_bytes() == before
    other = net(3)
    PretrainedInit(tmp_path / "w.pth")(other)
    assert state(other) == state(net(1))


@pytest.mark.parametrize("prefix", ["backbone", "backbone."])
def test_a_prefix_loads_a_part(tmp_path: Path, prefix: str) -> None:
    whole = nn.ModuleDict({"backbone": net(1), "backbone2": net(3), "head": nn.Linear(2, 2)})
    save_file({f"module.{key}": value for key, value in whole.state_dict().items()}, tmp_path / "w.safetensors")
    part = net(2)
    PretrainedInit(tmp_path / "w.safetensors", prefix=prefix, strict=True)(part)
    assert state(part) == state(net(1))


def test_an_address(tmp_path: Path) -> None:
    torch.save(net(1).state_dict(), tmp_path / "w.pth")
    loaded = net(2)
    PretrainedInit((tmp_path / "w.pth").as_uri(), map_location=None)(loaded)
    assert state(loaded) == state(net(1))


def test_types_are_converted(tmp_path: Path) -> None:
    torch.save(net(1).double().state_dict(), tmp_path / "w.pth")
    loaded = net(2).bfloat16()
    PretrainedInit(tmp_path / "w.pth")(loaded)
    assert state(loaded) == state(net(1).bfloat16())


def test_tied_parameters_are_loaded_once_and_stay_tied(tmp_path: Path) -> None:
    def tied(seed: int) -> nn.ModuleDict:
        torch.manual_seed(seed)
        module = nn.ModuleDict({"emb": nn.Embedding(4, 3), "head": nn.Linear(3, 4, bias=False)})
        module["head"].weight = module["emb"].weight
        return module

    saved, loaded = tied(1), tied(2)
    torch.save({"head.weight": saved["head"].weight}, tmp_path / "w.pth")
    PretrainedInit(tmp_path / "w.pth", strict=True)(loaded)
    assert loaded["head"].weight is loaded["emb"].weight
    assert state(loaded) == state(saved)


def test_a_padding_row_is_what_the_file_says(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3, 2)}, tmp_path / "w.pth")
    module = nn.Embedding(3, 2, padding_idx=0)
    PretrainedInit(tmp_path / "w.pth")(module)
    assert module.weight.tolist() == [[1, 1]] * 3


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.orthogonal])
def test_a_parametrized_layer_takes_its_parts_or_its_weight(tmp_path: Path, wrap: Callable[..., nn.Module]) -> None:
    torch.manual_seed(1)
    saved, loaded, third = wrap(nn.Linear(3, 3)), wrap(nn.Linear(3, 3)), wrap(nn.Linear(3, 3))
    torch.save(saved.state_dict(), tmp_path / "own.pth")
    PretrainedInit(tmp_path / "own.pth")(loaded)
    assert state(loaded) == state(saved)
    torch.save({"weight": nn.Parameter(cast("Tensor", saved.weight)), "bias": saved.bias}, tmp_path / "plain.pth")
    PretrainedInit(tmp_path / "plain.pth", strict=True)(third)
    torch.testing.assert_close(third.weight, saved.weight)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def test_a_parametrization_without_a_way_back(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    torch.save(module.state_dict(), tmp_path / "w.pth")
    parametrize.register_parametrization(module, "weight", Doubled())
    before = state(module)
    with pytest.raises(InitConfigError, match="weight: is parametrized without a right inverse"):
        PretrainedInit(tmp_path / "w.pth")(module)
    assert state(module) == before


def test_a_lazy_parameter_and_one_without_storage(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(InitConfigError, match=r"0\.weight: has no shape yet") as caught:
        PretrainedInit(tmp_path / "w.pth")(nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 2, device="meta")))
    assert [fault.where for fault in caught.value.faults] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert "1.weight: is on the meta device" in str(caught.value)


def test_what_does_not_fit_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    torch.save({**net(1).state_dict(), "extra": torch.ones(1)}, tmp_path / "w.pth")
    loaded = net(2, width=5)
    linear = loaded[2]
    before = state(loaded)
    PretrainedInit(tmp_path / "w.pth", on_mismatch="skip")(loaded)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "3 loaded, 1 unexpected, 6 mismatched" in record.getMessage()
    assert "(3, 2, 3, 3), wanted (5, 2, 3, 3)" in record.getMessage()
    assert state(linear) == state(net(1)[2])
    assert state(loaded)["0.weight"] == before["0.weight"]
    caplog.clear()
    torch.save(net(1).state_dict(), tmp_path / "w.pth")
    PretrainedInit(tmp_path / "w.pth")(net(2))
    assert [record.levelno for record in caplog.records] == [logging.INFO]


@pytest.mark.parametrize(
    ("change", "arguments", "where"),
    [
        (lambda weights: {**weights, "0.weight": torch.ones(1)}, {}, "on_mismatch"),
        (lambda weights: {**weights, "extra": torch.ones(1)}, {"strict": True}, "strict"),
        (lambda weights: weights, {"prefix": "net"}, "prefix"),
        (lambda weights: {"x": torch.ones(1)}, {}, "checkpoint"),
        (lambda weights: {"epoch": 3}, {}, "checkpoint"),
    ],
)
def test_a_fault_leaves_the_weights_as_they_were(
    tmp_path: Path, change: Callable[[Any], object], arguments: dict[str, Any], where: str
) -> None:
    torch.save(change(net(1).state_dict()), tmp_path / "w.pth")
    loaded = net(2)
    before = state(loaded)
    with pytest.raises(CheckpointError) as caught:
        PretrainedInit(tmp_path / "w.pth", **arguments)(loaded)
    assert [fault.where for fault in caught.value.faults] == [where]
    assert str(tmp_path / "w.pth") in str(caught.value)
    assert state(loaded) == before


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"checkpoint: no such file: .*gone.pth"):
        PretrainedInit(tmp_path / "gone.pth").open()


def test_a_device_that_is_not_here(tmp_path: Path) -> None:
    torch.save(net(1).state_dict(), tmp_path / "w.pth")
    loaded = net(2)
    before = state(loaded)
    rule = PretrainedInit(tmp_path / "w.pth", map_location="cuda:77")
    for ask in (rule.check_device, lambda: rule(loaded)):
        with pytest.raises(CheckpointError, match="map_location: no device 'cuda:77' here"):
            ask()
    assert state(loaded) == before
    PretrainedInit(tmp_path / "w.pth", map_location=None).check_device()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"checkpoint": None}, "checkpoint: must be a path or an address, got None"),
        ({"checkpoint": 3}, "checkpoint: must be a path or an address, got 3"),
        ({"checkpoint": b"w.pth"}, "checkpoint: must be a path or an address, got b'w.pth'"),
        ({"checkpoint": ""}, "checkpoint: must be a path or an address, got an empty string"),
        ({"prefix": 3}, "prefix: must be a string such as 'backbone.', or None, got 3"),
        ({"map_location": 3}, "map_location: must be a device such as 'cpu' or 'cuda:0', got 3"),
        ({"map_location": "gpu"}, "map_location: must be a device such as 'cpu' or 'cuda:0', got 'gpu'"),
        ({"map_location": "meta"}, "on 'meta' the values would be lost"),
        (
            {"on_mismatch": "skp"},
            "on_mismatch: must be one of 'error', 'skip', 'adapt', got 'skp'; did you mean 'skip'?",
        ),
        ({"on_mismatch": ["skip"]}, "on_mismatch: must be one of"),
        ({"strict": "yes"}, "strict: must be True or False, got 'yes'"),
        ({"safe_globals": "argparse.Namespace"}, "safe_globals: must be a list of classes"),
        ({"safe_globals": dict}, "safe_globals: must be a list of classes"),
        ({"safe_globals": [dict, "argparse.Namespace"]}, "pairs of one and its path, got ['argparse.Namespace']"),
        ({"safe_globals": [(dict, 3)]}, "safe_globals: must hold classes"),
    ],
)
def test_arguments_that_cannot_be_meant(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(InitConfigError) as caught:
        PretrainedInit(**{"checkpoint": "w.pth", **arguments})
    assert told in str(caught.value)


def test_all_faults_of_the_arguments_at_once() -> None:
    names = [field.name for field in dataclasses.fields(PretrainedInit)]
    wrong: Any = dict.fromkeys(names, object())
    with pytest.raises(InitConfigError) as caught:
        PretrainedInit(**wrong)
    assert sorted(fault.where for fault in caught.value.faults) == sorted(names)


@pytest.mark.parametrize(
    ("arguments", "where", "told"),
    [
        ({"sha256": "abc"}, "sha256", "at least its first 8 digits, got 'abc'"),
        ({"sha256": "z" * 64}, "sha256", "in hexadecimal"),
        ({"container": ""}, "container", "must be a name such as 'state_dict'"),
        ({"container": "model", "ema": True}, "ema", "so does container='model'; give one of them"),
        ({"min_match": 0}, "min_match", "must be > 0"),
        ({"min_match": 1.5}, "min_match", "at most 1, got 1.5"),
        ({"revise_keys": [("(", "")]}, "revise_keys[0]", "'(' is no regular expression"),
        ({"include": ["a", "re:("]}, "include[1]", "is no regular expression"),
        ({"on_mismatch": "adopt"}, "on_mismatch", "did you mean 'adapt'?"),
        ({"adapters": ["pos_embed"]}, "adapters", "work with on_mismatch='adapt', not with 'error'"),
        ({"adapters": ["posembed"], "on_mismatch": "adapt"}, "adapters[0]", "did you mean 'pos_embed'?"),
    ],
)
def test_an_argument_that_cannot_be_meant(arguments: dict[str, Any], where: str, told: str) -> None:
    with pytest.raises(InitConfigError) as caught:
        PretrainedInit("w.pth", **arguments)
    (fault,) = caught.value.faults
    assert fault.where == where
    assert told in fault.what


def test_secrets_of_an_address_are_not_shown() -> None:
    rule = PretrainedInit("https://user:s3cret@host/w.pth?token=s3cret")
    assert "s3cret" not in repr(rule) + str(rule) + rule.describe() + rule.address
    assert "host/w.pth" in rule.address
    assert "s3cret" in str(rule.checkpoint)


def test_it_is_a_value() -> None:
    allowed = [dict]
    one = PretrainedInit(Path("w.pth"), safe_globals=allowed)
    allowed.append(list)  # type: ignore[arg-type]
    assert one == PretrainedInit("w.pth", safe_globals=(dict,))
    assert hash(one) == hash(PretrainedInit("w.pth", safe_globals=(dict,)))
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 - our own
    with pytest.raises(FrozenInstanceError):
        one.checkpoint = "other"  # type: ignore[misc]


def test_describe_gives_the_arguments_that_say_something() -> None:
    assert PretrainedInit(Path("a/w.pth")).describe() == "Pretrained(checkpoint='a/w.pth')"
    everything = PretrainedInit(
        "w",
        "net",
        "cuda",
        "adapt",
        strict=True,
        safe_globals=[nn.Linear, (dict, "a.Dict")],
        sha256="0123abcd",
        container="model",
        revise_keys=[("a", "b")],
        include="net",
        exclude=["net.head"],
        into="backbone",
        adapters=["pos_embed"],
        min_match=0.5,
    )
    assert everything.describe() == (
        "Pretrained(checkpoint='w', prefix='net', map_location='cuda', on_mismatch='adapt', strict=True, "
        "safe_globals=['torch.nn.modules.linear.Linear', 'a.Dict'], sha256='0123abcd', container='model', "
        "revise_keys=(('a', 'b'),), include=('net',), exclude=('net.head',), into='backbone', "
        "adapters=('pos_embed',), min_match=0.5)"
    )


def test_the_steps_of_a_call_serve_a_caller_that_plans(tmp_path: Path) -> None:
    torch.save(net(1).state_dict(), tmp_path / "w.pth")
    rule = PretrainedInit(tmp_path / "w.pth")
    module = net(2)
    found = slots(module)
    with rule.open() as checkpoint:
        matched = rule.match(checkpoint, targets(found))
        for slot in found:
            copy_(slot, slot.name, rule.read(checkpoint, matched, slot.name))
    assert state(module) == state(net(1))
