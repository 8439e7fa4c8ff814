from __future__ import annotations

import time

import pytest
import torch

from lightning_init.checkpoint.base import Checkpoint, Entry
from lightning_init.checkpoint.matching.match import OnMismatch, match
from lightning_init.checkpoint.matching.matched import Match, Mismatch
from lightning_init.checkpoint.matching.rules import KeyRules
from lightning_init.checkpoint.matching.target import Target
from lightning_init.errors import CheckpointError
from tests.checkpoint.shapes import NET, Shapes, target, told


def faults(
    checkpoint: Checkpoint, *targets: Target, on_mismatch: OnMismatch = "error", strict: bool = False
) -> dict[str, str]:
    with pytest.raises(CheckpointError) as caught:
        match(checkpoint, targets, on_mismatch=on_mismatch, strict=strict)
    found = {fault.where: fault.what for fault in caught.value.faults}
    assert len(found) == len(caught.value.faults)
    assert all("'w.pth'" in what for what in found.values())
    return found


def test_loaded_missing_unexpected() -> None:
    found = match(
        Shapes(a_w=(2, 3), b_w=(4,), c=(1,)),
        [target("a.w", 2, 3), target("h.w", 5), target("b.w", 4), target("count", buffer=True)],
    )
    assert found == Match("w.pth", "", {"a.w": "a.w", "b.w": "b.w"}, ("h.w", "count"), ("c",), ())
    assert found.summary() == "w.pth: 2 loaded, 2 missing, 1 unexpected"


def test_only_keys_below_the_prefix_can_be_unexpected() -> None:
    found = match(
        Shapes(net_a=(2,), net_b=(2,), head_a=(2,)), [target("a", 2)], KeyRules.parse(prefix="net"), strict=False
    )
    assert found.loaded == {"a": "net.a"}
    assert found.unexpected == ("net.b",)
    assert found.summary() == "w.pth below 'net.': 1 loaded, 1 unexpected"


def test_the_table_is_aligned_and_cut() -> None:
    found = Match(
        source="w.pth",
        prefix="",
        loaded={f"layer.{i}": f"module.layer.{i}" for i in range(25)},
        missing=("head.weight",),
        unexpected=("fc.weight", "fc.bias"),
        mismatched=(Mismatch("emb", "emb", (3, 2), (4, 2)),),
    )
    lines = found.table().splitlines()
    assert lines[:7] == [
        "w.pth: 25 loaded, 1 missing, 2 unexpected, 1 mismatched",
        "state       parameter       key",
        "mismatched  emb             emb (3, 2), wanted (4, 2)",
        "missing     head.weight     -",
        "unexpected  -               fc.weight",
        "unexpected  -               fc.bias",
        "loaded      layer.0         module.layer.0",
    ]
    assert lines[-1] == "loaded      ... and 5 more"
    assert len(lines) == 6 + 20 + 1
    assert found.table(limit=3).count("\n") == 1 + 1 + 1 + 2 + 3 + 1


def test_a_tied_parameter_takes_the_key_of_any_of_its_names() -> None:
    tied = target("emb.w", 3, aliases=("head.w",))
    assert match(Shapes(head_w=(3,)), [tied]).loaded == {"emb.w": "head.w"}
    both = match(Shapes(module_head_w=(3,), emb_w=(3,)), [tied], strict=True)
    assert both.loaded == {"emb.w": "module.head.w"}  # the last one, as load_state_dict leaves it
    assert both.unexpected == ()


def test_a_key_goes_to_one_name_only() -> None:
    ambiguous = Shapes(module_a_module_w=(2,), x=(1,))
    found = match(ambiguous, [target("a.w", 2), target("a.module.w", 2), target("x", 1)])
    assert found.loaded == {"a.module.w": "module.a.module.w", "x": "x"}
    assert found.missing == ("a.w",)


def test_keys_that_cannot_be_told_apart() -> None:
    told = faults(Shapes(module_a=(2,), module_module_a=(2,)), target("a", 2))
    assert "'module.a', 'module.module.a'" in told["checkpoint"]
    assert "all stand for 'a'" in told["checkpoint"]
    assert match(Shapes(module_a=(2,), a=(2,)), [target("a", 2)]).unexpected == ("module.a",)


def test_every_mismatch_is_told_with_both_shapes_and_the_remedy() -> None:
    told = faults(
        Shapes(a=(2, 3), b=(4,), c=(1,), d=()), target("a", 2, 3), target("b", 5), target("c"), target("d", 1)
    )
    assert list(told) == ["on_mismatch"]
    assert "keys of 'w.pth' with another shape than the module's: 3; on_mismatch" in told["on_mismatch"]
    assert "on_mismatch='skip'" in told["on_mismatch"]
    for line in ("'b': (4,) in the checkpoint (key 'b'), (5,) in", "'c': (1,) in", "'d': () in the checkpoint"):
        assert line in told["on_mismatch"]


def test_mismatches_are_skipped_on_demand() -> None:
    found = match(Shapes(a=(2,), b=(4,)), [target("a", 2), target("b", 5)], on_mismatch="skip")
    assert found.loaded == {"a": "a"}
    assert found.mismatched == (Mismatch("b", "b", (4,), (5,)),)
    assert found.missing == found.unexpected == ()


def test_nothing_matches() -> None:
    told = faults(Shapes(net_a=(2,), net_b=(2,), net_c=(2,)), target("a", 2), target("b", 2))["checkpoint"]
    assert "no key of 'w.pth' fits" in told
    assert "it has 'net.a', 'net.b', 'net.c'" in told
    assert "the module has 'a', 'b'" in told
    assert told.endswith("2 of its keys match with prefix='net.'")
    told = faults(Shapes(a=(2,)), target("net.a", 2))["checkpoint"]
    assert told.endswith("1 of its keys match below 'net' of the module: into='net' loads them there")
    assert faults(Shapes(a=(2,)), target("x", 2))["checkpoint"].endswith("the module has 'x'")


def test_nothing_is_left_after_skipping() -> None:
    told = faults(Shapes(a=(2,)), target("a", 3), on_mismatch="skip")["checkpoint"]
    assert "no key of 'w.pth' fits" in told
    assert "'a': (2,) in the checkpoint" in told


def test_nothing_to_load_into() -> None:
    assert "no parameter or persistent buffer" in faults(Shapes(a=(2,)))["checkpoint"]


def test_complex_numbers_do_not_go_into_real_ones() -> None:
    told = faults(Shapes(torch.complex64, a=(2,)), target("a", 2))
    assert "'a' of 'w.pth' holds complex numbers, 'a' real ones" in told["checkpoint"]


def test_strict() -> None:
    targets = (target("a", 2), target("mean", 2, buffer=True))
    assert match(Shapes(a=(2,), mean=(2,)), targets, strict=True).loaded == {"a": "a", "mean": "mean"}
    assert match(Shapes(a=(2,)), targets, strict=True).missing == ("mean",)
    told = faults(Shapes(a=(2,), x=(1,), y=(1,)), *targets, target("b", 2), target("c", 2), strict=True)["strict"]
    assert "parameters without a key: 'b', 'c'" in told
    assert "keys without a parameter: 'x', 'y'" in told


def test_strict_does_not_skip() -> None:
    told = faults(Shapes(a=(2,), b=(2,)), target("a", 2), target("b", 3), on_mismatch="skip", strict=True)
    assert "another shape than the module's: 1" in told["strict"]
    assert "skip" not in told["strict"]


def test_all_faults_at_once() -> None:
    told = faults(
        Shapes(a=(2,), b=(2,), module_c=(1,), module_module_c=(1,)),
        target("a", 3),
        target("b", 2),
        target("c", 1),
        target("d", 1),
        strict=True,
    )
    assert list(told) == ["checkpoint", "on_mismatch", "strict"]


def test_parts_of_a_parametrized_tensor_stand_in_for_it() -> None:
    parts = (target("p.w.original0", 3, 1), target("p.w.original1", 3, 2))
    whole = Target("w", (), (3, 2), torch.float32, is_buffer=False, parts=parts)
    assert match(Shapes(w=(3, 2)), [whole], strict=True).loaded == {"w": "w"}
    own = Shapes(p_w_original0=(3, 1), p_w_original1=(3, 2))
    assert match(own, [whole], strict=True).loaded == {t.name: t.name for t in parts}
    assert match(Shapes(module_p_w_original0=(3, 1)), [whole]).missing == ("p.w.original1",)
    assert match(Shapes(b=(1,)), [whole, target("b", 1)]).missing == ("w",)


def test_min_match_counts_parameters_alone() -> None:
    there = Shapes(net_a_w=(2,), net_a_b=(2,))
    assert len(match(there, NET, min_match=0.66).loaded) == 2
    found = told(there, *NET, rules=KeyRules(), min_match=0.67)
    assert found == {
        "min_match": "'w.pth' fills 2 of 3 parameters, which is less than 0.67 of them; not filled are 'net.head.w'"
    }
    three_of_ten = [target(str(i), 1) for i in range(10)]
    three = Shapes()
    three.entries = {str(i): Entry((1,), torch.float32) for i in range(3)}
    assert len(match(three, three_of_ten, min_match=0.3).loaded) == 3
    assert match(Shapes(net_step=()), NET[3:], min_match=1).loaded == {"net.step": "net.step"}


def test_min_match_hints_at_a_prefix() -> None:
    there = Shapes(a_w=(2,), m_b_w=(2,), m_c_w=(2,))
    found = told(there, target("a.w", 2), target("b.w", 2), target("c.w", 2), rules=KeyRules(), min_match=1)
    assert found["min_match"].endswith(
        "fills 1 of 3 parameters, which is less than 1 of them; not filled are 'b.w', 'c.w'; 2 of its keys match with "
        "prefix='m.'"
    )


def test_a_parametrized_tensor_is_one_parameter() -> None:
    parts = (target("p.w.original0", 3, 1), target("p.w.original1", 3, 2))
    whole = Target("w", (), (3, 2), torch.float32, is_buffer=False, parts=parts)
    one = Shapes(p_w_original0=(3, 1), b=(1,))
    assert "1 of 2 parameters" in told(one, whole, target("b", 1), rules=KeyRules(), min_match=0.6)["min_match"]
    other = Shapes(p_w_original1=(3, 2), b=(1,))
    assert "1 of 2 parameters" in told(other, whole, target("b", 1), rules=KeyRules(), min_match=0.6)["min_match"]
    both = Shapes(p_w_original0=(3, 1), p_w_original1=(3, 2))
    assert len(match(both, [whole, target("b", 1)], min_match=0.5).loaded) == 2


def test_conversions_are_told() -> None:
    there = Shapes(torch.float16, a_w=(2,), module_b=(2,), c=(2,))
    wide = Target("c", (), (2,), torch.float16, is_buffer=False)
    found = match(there, [target("a.w", 2), target("b", 2), wide])
    assert found.converted == dict.fromkeys(("a.w", "b"), (torch.float16, torch.float32))
    assert found.summary() == "w.pth: 3 loaded (2 converted float16 -> float32)"
    assert found.table().splitlines()[1:] == [
        "state   parameter  key",
        "loaded  a.w        a.w (float16 -> float32)",
        "loaded  b          module.b (float16 -> float32)",
    ]
    assert found.complete


@pytest.mark.parametrize(
    ("old", "new", "buffer", "refusal"),
    [
        (torch.float64, torch.float16, False, ""),
        (torch.float32, torch.complex64, False, ""),
        (torch.int64, torch.int32, True, ""),
        (torch.int64, torch.float32, False, ""),
        (torch.bool, torch.float32, False, ""),
        (torch.uint8, torch.float32, True, ""),
        (
            torch.int8,
            torch.float32,
            False,
            "'a' of 'w.pth' holds int8, the parameter 'a' float32: these look like quantised",
        ),
        (
            torch.float32,
            torch.int64,
            True,
            "'a' of 'w.pth' holds float32, 'a' int64, which would cut off what is behind",
        ),
        (torch.bfloat16, torch.bool, True, "'a' of 'w.pth' holds bfloat16, 'a' bool, which"),
        (torch.complex64, torch.float32, True, "'a' of 'w.pth' holds complex numbers, 'a' real ones"),
    ],
)
def test_which_types_become_which(old: torch.dtype, new: torch.dtype, buffer: bool, refusal: str) -> None:
    wanted = Target("a", (), (2,), new, buffer)
    if refusal:
        assert told(Shapes(old, a=(2,)), wanted, rules=KeyRules())["checkpoint"].startswith(refusal)
    else:
        assert match(Shapes(old, a=(2,)), [wanted]).converted == {"a": (old, new)}


def test_large_checkpoints_take_no_time() -> None:
    names = [f"module.blocks.{i}.attention.query.weight" for i in range(20_000)]
    there = Shapes(a=(1,))
    there.entries = {name: Entry((1,), torch.float32) for name in names}
    targets = [target(f"net.layers.{i}.attn.q.weight", 1) for i in range(20_000)]
    rules = KeyRules.parse(
        revise_keys=[("^blocks", "layers"), ("attention.query", "attn.q")],
        into="net",
        include="layers.*.attn",
        exclude=["**.bias", "layers.3"],
    )
    begin = time.process_time()
    found = match(there, [*targets, target("net.layers.0.attn.q.bias", 1)], rules)
    assert time.process_time() - begin < 5  # a second on an idle machine; quadratic ways take minutes
    assert len(found.loaded) == 19_999
