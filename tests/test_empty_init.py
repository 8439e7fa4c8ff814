"""Models made under ``trainer.init_module(empty_init=True)`` on a device: what stays unset is set, or named."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.init import _EmptyInit
from torch import Tensor, nn

from lightning_init import InitConfigError, InitWeightsCallback
from tests.models import constant, value
from tests.trainers import Net, Snapshots, trainer, weights


class Lone(nn.Module):
    """A parameter that its constructor draws, and no `reset_parameters`; another whose values it gives outright."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = nn.Parameter(nn.init.normal_(torch.empty(4, 3)))
        self.given = nn.Parameter(torch.full((3,), 7.0))


class Wide(Net):
    """Layers beside those of the config."""

    def __init__(self, make: Callable[[], nn.Module], init_cfg: Any = None) -> None:
        super().__init__([constant(0.5, name="body"), constant(0.5, name="head")] if init_cfg is None else init_cfg)
        self.extra = make()


def empty(folder: Path, make: Callable[[], Any], *given: Any, **arguments: Any) -> tuple[Any, Any]:
    """A Trainer with our callback, and a model that was made empty."""
    made = trainer(folder, InitWeightsCallback(log=(), seed=3), *given, **arguments)
    with made.init_module(empty_init=True):
        module = make()
    return made, module


def test_what_no_rule_writes_is_reset_as_its_layer_does_it(tmp_path: Path) -> None:
    seen = Snapshots()
    made, module = empty(tmp_path, lambda: Wide(lambda: nn.Embedding(30, 5, padding_idx=0)), seen)
    made.fit(module)
    (found,) = seen.at_start
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert value(found["body.weight"]) == 0.5
    drawn = found["extra.weight"][1:]
    # N(0, 1): the mean of 145 numbers is within 5 / sqrt(145).
    assert abs(drawn.mean()) < 0.42
    assert 0.7 < drawn.std() < 1.3
    assert value(found["extra.weight"][0]) == 0
    assert made.callbacks[0].report["extra.weight"].source == "Embedding.reset_parameters"


def test_the_same_seed_resets_to_the_same_numbers_as_a_model_on_meta(tmp_path: Path) -> None:
    found = []
    for on_meta in (False, True):
        seen = Snapshots()
        made, module = empty(tmp_path, lambda: Wide(lambda: nn.Linear(4, 4)), seen)
        if on_meta:
            with torch.device("meta"):
                module = Wide(lambda: nn.Linear(4, 4))
        made.fit(module)
        found += seen.at_start
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


class Codes(nn.Module):
    """Buffers: one that is drawn, one that says with NaN that nothing was seen yet."""

    def __init__(self, *, persistent: bool = True) -> None:
        super().__init__()
        self.register_buffer("drawn", nn.init.uniform_(torch.empty(4, 3)), persistent=persistent)
        self.register_buffer("seen", torch.full((4,), torch.nan))


@pytest.mark.parametrize("persistent", [True, False])
def test_a_buffer_that_stays_unset_is_named_and_not_one_that_is_nan(tmp_path: Path, persistent: bool) -> None:
    made, module = empty(tmp_path, lambda: Wide(partial(Codes, persistent=persistent)))
    with pytest.raises(InitConfigError, match="give it a rule") as info:
        made.fit(module)
    assert [fault.where for fault in info.value.faults] == ["extra.drawn"]
    made, module = empty(tmp_path, lambda: Wide(partial(Codes, persistent=persistent)))
    module.extra.drawn.fill_(3)
    made.fit(module)
    assert value(module.extra.drawn) == 3


def is_marked() -> bool:
    with _EmptyInit():
        return bool(nn.init.constant_(torch.zeros(2), 1).isnan().all())


def test_lightning_is_left_alone_where_no_callback_lives() -> None:
    gc.collect()
    before = _EmptyInit.__torch_function__
    assert not is_marked()
    first, second = InitWeightsCallback(log=()), InitWeightsCallback(log=())
    assert is_marked()
    del first
    gc.collect()
    assert is_marked()
    del second
    gc.collect()
    assert not is_marked()
    assert _EmptyInit.__torch_function__ is before


def test_a_callback_that_was_sent_finds_what_configure_model_leaves_unset(tmp_path: Path) -> None:
    class Late(Net):
        def configure_model(self) -> None:
            with self.trainer.init_module(empty_init=True):
                self.extra = Lone()

    callback = pickle.dumps(InitWeightsCallback(log=()))
    gc.collect()
    made = trainer(tmp_path, pickle.loads(callback))  # noqa: S301 - made above
    with pytest.raises(InitConfigError, match=r"^extra\.drawn: "):
        made.fit(Late())


def sent(module: Any) -> Any:
    """As another process would get it."""
    return pickle.loads(pickle.dumps(module))  # noqa: S301 - made on this line


@pytest.mark.parametrize("change", [lambda module: module, copy.deepcopy, sent], ids=["itself", "copied", "sent"])
def test_what_nobody_sets_is_named_in_an_error(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    made, module = empty(tmp_path, lambda: Wide(Lone))
    seen = Snapshots()
    made.callbacks.append(seen)
    with pytest.raises(InitConfigError, match=r"init_module\(empty_init=True\).*give it a rule") as info:
        made.fit(change(module))
    assert [fault.where for fault in info.value.faults] == ["extra.drawn"]
    assert seen.steps == 0
    assert not getattr(module, "is_init", False)


def test_a_rule_a_method_or_a_checkpoint_sets_it(tmp_path: Path) -> None:
    class Method(Lone):
        def init_weights(self) -> None:
            nn.init.constant_(self.drawn, 4)

    torch.save({"extra.drawn": torch.full((4, 3), 4.0)}, tmp_path / "w.pt")
    rules = constant(0.5, layer="Linear")
    ways: list[tuple[Any, Any]] = [
        (Lone, [rules, {"type": "Constant", "name": "extra", "params": "drawn", "val": 4}]),
        (Lone, [rules, {"type": "Pretrained", "checkpoint": str(tmp_path / "w.pt")}]),
        (Method, rules),
    ]
    for make, init_cfg in ways:
        made, module = empty(tmp_path, partial(Wide, make, init_cfg))
        made.fit(module)
        assert value(module.extra.drawn) == 4
        assert value(module.extra.given) == 7


def test_what_was_loaded_behind_it_stays(tmp_path: Path) -> None:
    """Also beside what is reset in the same layer."""
    made, module = empty(tmp_path, lambda: Wide(lambda: nn.Linear(2, 2)))
    with torch.no_grad():
        module.extra.weight.copy_(torch.full((2, 2), 6.0))
    made.fit(module)
    assert value(module.extra.weight) == 6
    assert module.extra.bias.isfinite().all()
    assert made.callbacks[0].report["extra.weight"].source is None
    assert made.callbacks[0].report["extra.bias"].source == "Linear.reset_parameters"
    made, module = empty(tmp_path, lambda: Wide(Lone))
    module.extra.drawn.data.zero_()
    made.fit(module)
    assert value(module.extra.drawn) == 0


def test_a_resumed_run_restores_it(tmp_path: Path) -> None:
    """What Lightning has it for; no rule is needed then."""
    first = Wide(Lone)
    made = trainer(tmp_path, InitWeightsCallback(log=()))
    made.fit(first)
    made.save_checkpoint(tmp_path / "last.ckpt")
    seen = Snapshots()
    made, module = empty(tmp_path, lambda: Wide(Lone), seen, max_steps=2)
    made.fit(module, ckpt_path=tmp_path / "last.ckpt")
    wanted = weights(first)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in seen.at_start[0].items())


def test_without_empty_init_nothing_changes(tmp_path: Path) -> None:
    made = trainer(tmp_path, InitWeightsCallback(log=()))
    with made.init_module(empty_init=False):
        module = Wide(Lone)
    before: Tensor = module.extra.drawn.detach().clone()  # type: ignore[operator]
    made.fit(module)
    assert torch.equal(module.extra.drawn, before)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_in_other_types(tmp_path: Path, dtype: torch.dtype) -> None:
    precision = {torch.bfloat16: "bf16-true", torch.float16: "16-true", torch.float64: "64-true"}[dtype]
    made, module = empty(tmp_path, lambda: Wide(Lone), precision=precision)
    assert module.extra.drawn.dtype == dtype
    with pytest.raises(InitConfigError, match=r"^extra\.drawn: "):
        made.fit(module)
