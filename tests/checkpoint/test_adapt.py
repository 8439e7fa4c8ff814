from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_init.checkpoint.matching.adapters import Adaptation, Adapters, Misfit
from lightning_init.checkpoint.matching.match import match
from lightning_init.checkpoint.matching.rules import KeyRules
from lightning_init.errors import CheckpointError
from tests.checkpoint.shapes import Shapes, target, told

GROWN = (target("conv.w", 2, 3), target("head.weight", 5, 2), target("head.bias", 5))


def old(dtype: torch.dtype = torch.float32, **more: tuple[int, ...]) -> Shapes:
    return Shapes(dtype, conv_w=(4, 3), head_weight=(7, 2), head_bias=(7,), **more)


@pytest.fixture
def adapters(monkeypatch: pytest.MonkeyPatch) -> Adapters:
    """An own table, so that what a test registers is gone afterwards."""
    table = Adapters({"never": lambda misfit: "it never is"})
    monkeypatch.setattr("lightning_init.checkpoint.matching.adapt.ADAPTERS", table)
    monkeypatch.setattr("lightning_init.checkpoint.matching.adapters.registry.ADAPTERS", table)
    return table


def halves(misfit: Misfit) -> Adaptation | str:
    if misfit.entry.shape[0] != 2 * misfit.target.shape[0]:
        return "it has not twice as many rows"
    return Adaptation("every second row", lambda value: value[::2])


def drops(misfit: Misfit) -> Adaptation | str:
    return Adaptation("dropped", drop=True) if misfit.target.name.startswith("head") else "it is no head"


def test_adapted_and_dropped(adapters: Adapters) -> None:
    adapters.register("halves")(halves)
    adapters.register("drops")(drops)
    found = match(old(torch.float16), GROWN, on_mismatch="adapt")
    assert found.loaded == {"conv.w": "conv.w"}
    assert {name: one.adapter for name, one in found.adapted.items()} == {"conv.w": "halves"}
    assert {name: one.adapter for name, one in found.dropped.items()} == {"head.weight": "drops", "head.bias": "drops"}
    assert (found.missing, found.mismatched, found.unexpected, found.complete) == ((), (), (), False)
    assert found.summary() == "w.pth: 1 loaded (1 adapted, 1 converted float16 -> float32), 2 dropped"
    assert found.table().splitlines()[1:] == [
        "state    parameter    key",
        "dropped  head.weight  head.weight (7, 2), drops: dropped",
        "dropped  head.bias    head.bias (7,), drops: dropped",
        "adapted  conv.w       conv.w (4, 3), halves: every second row",
    ]
    value = torch.arange(12.0).view(4, 3)
    assert found.adapt("conv.w", value).tolist() == [[0, 1, 2], [6, 7, 8]]
    other = torch.ones(1)
    assert found.adapt("elsewhere", other) is other


def test_a_match_is_pickled_without_the_functions_of_adapters(adapters: Adapters) -> None:
    adapters.register("halves")(halves)
    adapters.register("drops")(drops)
    found = match(old(), GROWN, on_mismatch="adapt")
    copied = pickle.loads(pickle.dumps(found))  # noqa: S301 - our own
    assert copied == found
    assert copied.table() == found.table()


def test_the_first_adapter_that_takes_it(adapters: Adapters) -> None:
    asked: list[str] = []
    for name in ("a", "b", "c"):

        def adapter(misfit: Misfit, name: str = name) -> Adaptation | str:
            asked.append(name)
            return "no" if name == "a" else Adaptation(name, drop=True)

        adapters.register(name)(adapter)
    one = (target("x", 1), target("y", 1))
    there = Shapes(x=(2,), y=(1,))
    assert match(there, one, on_mismatch="adapt").dropped["x"].adapter == "b"
    assert asked == ["a", "b"]
    assert match(there, one, on_mismatch="adapt", adapters=["c", "b"]).dropped["x"].adapter == "c"


def test_what_an_adapter_is_shown(adapters: Adapters) -> None:
    seen: list[Misfit] = []

    @adapters.register("spy")
    def spy(misfit: Misfit) -> Adaptation | str:
        seen.append(misfit)
        return "no"

    targets = [target("out", 1), *(replace(t, name=f"net.{t.name}") for t in GROWN)]
    rules = KeyRules.parse(into="net", exclude="head.bias")
    told(old(), *targets, rules=rules, on_mismatch="adapt")
    conv, head = seen
    assert (conv.key, conv.entry.shape, conv.target.name, conv.position) == ("conv.w", (4, 3), "net.conv.w", 0)
    assert (head.key, head.target.name, head.position) == ("head.weight", "net.head.weight", 1)
    # All of the module that is loaded into, what is excluded included.
    assert [one.name for one in head.targets] == ["net.conv.w", "net.head.weight", "net.head.bias"]
    assert {name: entry.shape for name, entry in head.entries.items()} == {
        "net.conv.w": (4, 3),
        "net.head.weight": (7, 2),
    }


def test_no_adapter_takes_it(adapters: Adapters) -> None:
    adapters.register("halves")(halves)
    found = told(old(fine=(1,)), target("fine", 1), *GROWN, rules=KeyRules(), on_mismatch="adapt")
    assert found == {
        "on_mismatch": (
            "keys of 'w.pth' with another shape than the module's that no adapter takes: 2; leave them out with "
            "exclude, or register an adapter"
            "\n      'head.weight': (7, 2) in the checkpoint (key 'head.weight'), (5, 2) in the module"
            "\n        halves: it has not twice as many rows"
            "\n        never: it never is"
            "\n      'head.bias': (7,) in the checkpoint (key 'head.bias'), (5,) in the module"
            "\n        halves: it has not twice as many rows"
            "\n        never: it never is"
        )
    }


def test_adapted_is_filled_and_dropped_is_not(adapters: Adapters) -> None:
    adapters.register("halves")(halves)
    adapters.register("drops")(drops)
    body = match(old(), GROWN[:1], KeyRules.parse(exclude="head"), on_mismatch="adapt", strict=True, min_match=1)
    assert list(body.loaded) == ["conv.w"]
    found = told(old(), *GROWN, rules=KeyRules(), on_mismatch="adapt", strict=True, min_match=0.5)
    assert found["min_match"].startswith("'w.pth' fills 1 of 3 parameters")
    assert found["strict"].endswith("parameters that an adapter drops: 'head.weight', 'head.bias'")


def test_everything_is_dropped(adapters: Adapters) -> None:
    adapters.register("drops")(drops)
    found = told(Shapes(head_weight=(7, 2)), GROWN[1], rules=KeyRules(), on_mismatch="adapt")["checkpoint"]
    assert "no key of 'w.pth' fits" in found
    assert "by name they match, but not in shape" in found


def test_an_adapter_that_is_not_there() -> None:
    found = told(Shapes(a=(1,)), target("a", 1), rules=KeyRules(), on_mismatch="adapt", adapters=["pos_embd"])
    assert found == {"adapters[0]": "unknown adapter 'pos_embd'; did you mean 'pos_embed'?"}
    # nobody is asked
    assert match(Shapes(a=(1,)), [target("a", 1)], on_mismatch="skip", adapters=["pos_embd"]).complete


def fails(misfit: Misfit) -> Adaptation | str:
    raise ZeroDivisionError("nothing to divide by")


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        (fails, "failed: ZeroDivisionError: nothing to divide by"),
        (lambda misfit: None, "must answer with an Adaptation or a reason, not None"),
    ],
)
def test_an_adapter_that_fails_when_it_is_asked(adapters: Adapters, adapter: Any, expected: str) -> None:
    adapters.register("mine")(adapter)
    found = told(Shapes(a=(2,)), target("a", 1), rules=KeyRules(), on_mismatch="adapt")
    assert found == {"adapters": f"the adapter 'mine', asked about 'a' of 'w.pth' for 'a', {expected}"}


@pytest.mark.parametrize(
    ("apply", "expected"),
    [
        (lambda value: value, "it made a tensor of shape (2,), not (1,)"),
        (lambda value: value.tolist(), "it made no tensor, but list"),
        (lambda value: value.view(5), "RuntimeError: shape '[5]' is invalid for input of size 2"),
    ],
)
def test_an_adapter_that_fails_when_it_is_applied(adapters: Adapters, apply: Any, expected: str) -> None:
    adapters.register("mine")(lambda misfit: Adaptation("made", apply))
    found = match(Shapes(a=(2,)), [target("a", 1)], on_mismatch="adapt")
    with pytest.raises(CheckpointError) as caught:
        found.adapt("a", torch.ones(2))
    assert str(caught.value) == f"adapters: the adapter 'mine' cannot fit 'a' of 'w.pth' to 'a': {expected}"


def test_a_vocabulary_that_grew(adapters: Adapters) -> None:
    """The example of the documentation."""

    def vocabulary(misfit: Misfit) -> Adaptation | str:
        known, wanted = misfit.entry.shape, misfit.target.shape
        if not any(issubclass(owner, nn.Embedding) for owner in misfit.target.owners):
            return "it is not the weight of an embedding"
        if known[1:] != wanted[1:] or known[0] > wanted[0]:
            return "rows are not only added"

        def grown(value: Tensor) -> Tensor:
            mean = value.float().mean(dim=0, keepdim=True)
            return torch.cat([value.float(), mean.expand(wanted[0] - known[0], *wanted[1:])])

        return Adaptation(f"{known[0]} -> {wanted[0]} tokens: new ones are the mean of the known", grown)

    adapters.register("vocabulary")(vocabulary)
    embedding = replace(target("emb.weight", 5, 2), owners=(nn.Embedding,))
    found = match(Shapes(emb_weight=(3, 2)), [embedding], on_mismatch="adapt")
    value = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])
    assert found.adapt("emb.weight", value).tolist() == [[1, 2], [3, 4], [5, 9], [3, 5], [3, 5]]
    assert "3 -> 5 tokens: new ones are the mean of the known" in found.table()
    shrunk = told(Shapes(emb_weight=(7, 2)), embedding, rules=KeyRules(), on_mismatch="adapt")["on_mismatch"]
    assert "vocabulary: rows are not only added" in shrunk
