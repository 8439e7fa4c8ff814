"""A module's own ``init_weights`` in an initialisation: which are called, who wrote what, and with which numbers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.testing._internal.two_tensor import TwoTensor
from transformers import BertConfig, BertModel

from lightning_init import BaseModule, InitConfigError, InitWarning, init_weights, initialize, normal_init, slot, tree
from lightning_init.initializers.base import INITIALIZERS, TensorInitializer
from lightning_init.report import InitReport
from tests.models import Holder, as_before, constant, digests, linear, pretrained, threads, value, values


def with_method(method: Callable[[Any], object], init_cfg: Any = None, **children: nn.Module) -> Holder:
    """A plain module, of a class of its own, whose ``init_weights`` is the given function."""
    cls = type("Own", (Holder,), {"init_weights": lambda self: method(self)})  # noqa: PLW0108  # a partial would get no self
    made = cls(init_cfg, **children)
    assert isinstance(made, Holder)
    return made


def sources(report: InitReport) -> dict[str, str | None]:
    return {row.name: row.source for row in report}


class TestWhichAreCalled:
    def test_one_that_needs_arguments_is_left_alone_with_a_note(self) -> None:
        class Needs(Holder):
            def init_weights(self, std: float) -> None:
                raise AssertionError

        net = Holder(constant(1), child=Needs(fc=linear()))
        report = init_weights(net)
        assert values(net) == {"child.fc.weight": 1, "child.fc.bias": 1}
        assert "Holder.child: Needs.init_weights needs arguments, so it is not called" in report.notes

    def test_one_whose_arguments_have_defaults_is_called(self) -> None:
        class Defaults(Holder):
            def init_weights(self, val: float = 3, *args: Any, std: float = 0, **kwargs: Any) -> None:
                nn.init.constant_(self.get_parameter("fc.weight"), val)

        init_weights(net := Holder(child=Defaults(fc=linear())))
        assert values(net) == {"child.fc.weight": 3, "child.fc.bias": 0}

    def test_a_base_module_whose_method_needs_arguments_still_has_its_rules(self) -> None:
        class Needs(BaseModule):
            def __init__(self) -> None:
                super().__init__(constant(2))
                self.fc = linear()

            def init_weights(self, std: float) -> None:  # type: ignore[override]
                raise AssertionError

        init_weights(net := Holder(constant(1), child=Needs()))
        assert values(net) == {"child.fc.weight": 2, "child.fc.bias": 2}

    def test_what_is_no_method_is_not_called(self) -> None:
        net = Holder(constant(1), fc=linear())
        net.init_weights = True  # type: ignore[assignment]
        init_weights(net)
        assert values(net) == {"fc.weight": 1, "fc.bias": 1}

    def test_those_of_transformers_are_not(self) -> None:
        before = digests(bert := tiny_bert())
        report = init_weights(Holder(bert=bert))
        assert digests(bert) == before
        assert len(report.untouched) == len(list(bert.parameters()))
        assert any("BertModel.init_weights" in note and "initialised themselves" in note for note in report.notes)

    def test_rules_reach_into_such_models(self) -> None:
        net = Holder(constant(0.5, name="bert.pooler"), bert=tiny_bert())
        init_weights(net)
        assert value(net.get_parameter("bert.pooler.dense.weight")) == 0.5

    def test_a_class_derived_from_theirs_is_asked_if_it_defines_the_method_itself(self) -> None:
        class Inherits(BertModel):
            pass

        class Defines(BertModel):
            def init_weights(self) -> None:
                # Its own constructor calls it as well.
                if getattr(self, "pooler", None) is not None:
                    nn.init.constant_(self.get_parameter("pooler.dense.bias"), 3)

        net = Holder(a=tiny_bert(Inherits), b=tiny_bert(Defines))
        nn.init.zeros_(net.get_parameter("b.pooler.dense.bias"))
        report = init_weights(net)
        assert value(net.get_parameter("b.pooler.dense.bias")) == 3
        written = {name: source for name, source in sources(report).items() if source}
        assert written == {"b.pooler.dense.bias": "Defines.init_weights"}


def tiny_bert(cls: type[BertModel] = BertModel) -> BertModel:
    config = BertConfig(
        vocab_size=10,
        max_position_embeddings=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    return cls(config)


def replace_parameter(fc: nn.Linear) -> None:
    fc.weight = nn.Parameter(torch.full((1, 1), 3.0))


def replace_data(fc: nn.Linear) -> None:
    fc.weight.data = torch.full((1, 1), 3.0)


def numpy_view(fc: nn.Linear) -> None:
    fc.weight.detach().numpy()[0, 0] = 3


def numpy_array(fc: nn.Linear) -> None:
    np.asarray(fc.weight.data)[...] = 3


def dlpack(fc: nn.Linear) -> None:
    torch.from_dlpack(fc.weight.detach()).fill_(3)


def set_storage(fc: nn.Linear) -> None:
    with torch.no_grad():
        fc.weight.set_(torch.full((1, 1), 3.0))  # type: ignore[call-overload]  # its stub lacks this one


def normal(fc: nn.Linear) -> None:
    with torch.no_grad():
        fc.weight.normal_()
        fc.weight.copy_(torch.full((1, 1), 3.0))


WRITES: list[Callable[[nn.Linear], object]] = [
    lambda fc: nn.init.constant_(fc.weight, 3),
    lambda fc: fc.weight.data.fill_(3),
    lambda fc: fc.weight.detach().view(-1)[0].fill_(3),
    lambda fc: fc.weight.data.T.flatten()[0:1].copy_(torch.tensor([3.0])),
    lambda fc: torch._foreach_add_([fc.weight.detach(), torch.zeros(2)], 2),
    lambda fc: torch.add(torch.ones(1, 1), 2, out=fc.weight.data),
    lambda fc: fc.weight.data.__setitem__((0, 0), 3),
    lambda fc: fc.load_state_dict({"weight": torch.full((1, 1), 3.0)}, strict=False),
    lambda fc: nn.utils.vector_to_parameters(torch.tensor([3.0]), [fc.weight]),
    set_storage,
    lambda fc: fc.weight.data.untyped_storage().copy_(torch.full((1, 1), 3.0).untyped_storage()),
    lambda fc: torch.func.functional_call(fc, {}, torch.ones(1)) and fc.weight.data.fill_(3),
    replace_parameter,
    replace_data,
    numpy_view,
    numpy_array,
    dlpack,
    normal,
]


class TestWhoWroteWhat:
    @pytest.mark.parametrize("write", WRITES)
    def test_every_way_of_writing_is_seen_and_no_neighbour_is_named(self, write: Callable[[nn.Linear], object]) -> None:
        net = with_method(lambda self: write(self.fc), constant(1), fc=linear(), other=linear())
        report = init_weights(Holder(net=net))
        assert value(net.get_parameter("fc.weight")) == 3
        assert sources(report) == {
            "net.fc.weight": "Own.init_weights",
            **dict.fromkeys(("net.fc.bias", "net.other.weight", "net.other.bias"), "Holder.net.init_cfg"),
        }

    def test_the_value_that_was_there(self) -> None:
        net = with_method(lambda self: self.fc.weight.data.fill_(1), constant(1), fc=linear())
        report = init_weights(net)
        assert sources(report) == {"fc.weight": "Own.init_weights", "fc.bias": "Own.init_cfg"}

    def test_a_write_that_leaves_the_mean_as_it_was(self) -> None:
        fc = nn.Linear(4, 4)
        before = fc.weight.detach().clone()
        net = with_method(lambda self: self.fc.weight.data.copy_(before.flip(0)), fc=fc)
        report = init_weights(net)
        assert torch.equal(fc.weight, before.flip(0))
        assert sources(report) == {"fc.weight": "Own.init_weights", "fc.bias": None}

    def test_reading_is_not_writing(self) -> None:
        def read(self: Any) -> None:
            self.fc(torch.ones(1)).sum().backward()
            _ = self.fc.weight.norm(), self.fc.weight.detach().numpy().sum(), self.fc.weight.tolist()
            copy = self.fc.weight.detach().clone()
            copy.fill_(3)
            torch.zeros(1, 1).copy_(self.fc.weight.data)
            self.fc.weight.requires_grad_(requires_grad=False)
            self.scratch = nn.init.ones_(torch.empty(3))

        report = init_weights(with_method(read, fc=linear()))
        assert sources(report) == {"fc.weight": None, "fc.bias": None}

    def test_parameters_that_share_a_storage_are_told_apart(self) -> None:
        flat = torch.zeros(4)
        net = with_method(lambda self: nn.init.ones_(self.b))
        net.a, net.b = nn.Parameter(flat[:2]), nn.Parameter(flat[2:])
        report = init_weights(net)
        assert sources(report) == {"a": None, "b": "Own.init_weights"}
        assert flat.tolist() == [0, 0, 1, 1]

    def test_a_tied_parameter_has_one_writer(self) -> None:
        net = with_method(lambda self: nn.init.ones_(self.b.weight), a=linear(), b=linear())
        net.get_submodule("b").weight = net.get_submodule("a").weight
        report = init_weights(net)
        assert sources(report) == {"a.weight": "Own.init_weights", "a.bias": None, "b.bias": None}

    def test_a_new_parameter_is_the_methods(self) -> None:
        def grow(self: Any) -> None:
            self.scale = nn.Parameter(torch.ones(3))

        report = init_weights(Holder(net=with_method(grow, fc=linear())))
        assert report["net.scale"].source == "Own.init_weights"
        assert report["net.scale"].shape == (3,)

    def test_memory_that_left_before_the_rules_is_watched_after_them(self) -> None:
        class Around(BaseModule):
            def __init__(self) -> None:
                super().__init__(constant(1))
                self.fc = linear()

            def init_weights(self) -> None:
                array = self.fc.weight.detach().numpy()
                super().init_weights()
                array[...] = 3

        report = init_weights(net := Around())
        assert values(net) == {"fc.weight": 3, "fc.bias": 1}
        assert sources(report) == {"fc.weight": "Around.init_weights", "fc.bias": "Around.init_cfg"}

    def test_memory_that_left_is_not_the_methods_when_a_rule_writes_it(self) -> None:
        class Around(BaseModule):
            def __init__(self) -> None:
                super().__init__(constant(1))
                self.fc = linear()

            def init_weights(self) -> None:
                self.seen = self.fc.weight.detach().numpy()
                super().init_weights()

        report = init_weights(net := Around())
        assert net.seen.tolist() == [[1]]
        assert sources(report) == dict.fromkeys(("fc.weight", "fc.bias"), "Around.init_cfg")

    def test_a_parametrized_weight(self) -> None:
        fc = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))

        def double(self: Any) -> None:
            self.fc.parametrizations.weight.original0.data.mul_(2)

        before = fc.weight.detach().clone()
        report = init_weights(with_method(double, fc=fc))
        assert torch.allclose(fc.weight, 2 * before)
        assert sources(report) == {"fc.bias": None, "fc.weight": "Own.init_weights"}

    def test_the_innermost_method_is_named(self) -> None:
        inner = with_method(lambda self: nn.init.constant_(self.fc.weight, 2), fc=linear())
        type(inner).__name__ = "Inner"
        outer = with_method(lambda self: nn.init.constant_(self.inner.fc.bias, 3), inner=inner)
        assert sources(init_weights(outer)) == {
            "inner.fc.weight": "Inner.init_weights",
            "inner.fc.bias": "Own.init_weights",
        }


class TestPartsFromWithin:
    def test_initialize_is_the_rules_own_and_continues_the_streams(self) -> None:
        rule = {"type": "Normal", "layer": "Linear", "std": 0.1}
        by_method = Holder(net=with_method(lambda self: initialize(self.fc, rule), fc=nn.Linear(8, 8)))
        by_rule = Holder({**rule, "name": "net.fc"}, net=Holder(fc=nn.Linear(8, 8)))
        report = init_weights(by_method, seed=3)
        init_weights(by_rule, seed=3)
        assert digests(by_method) == digests(by_rule)
        row = report["net.fc.weight"]
        assert (row.source, row.initializer) == ("init_cfg", "Normal(mean=0, std=0.1)")

    def test_its_settings_are_those_of_the_outer_one(self) -> None:
        def method(self: Any) -> None:
            initialize(self.fc, {"type": "Normal", "layer": "Linear"}, seed=99)

        one, other = (Holder(net=with_method(method, fc=nn.Linear(8, 8))) for _ in range(2))
        init_weights(one, seed=3)
        init_weights(other, seed=4)
        assert digests(one)["net.fc.weight"] != digests(other)["net.fc.weight"]

    def test_init_weights_of_a_part_runs_all_its_steps(self) -> None:
        inner = with_method(lambda self: nn.init.constant_(self.fc.bias, 2), constant(1), fc=linear())
        net = with_method(lambda self: init_weights(self.keep[0]))
        net.keep = [inner]  # type: ignore[assignment]  # not registered, so out of reach but by the call
        report = init_weights(Holder(net=net))
        assert values(inner) == {"fc.weight": 1, "fc.bias": 2}
        assert len(report) == 0

    def test_a_part_that_is_initialised_already_is_a_warning(self) -> None:
        inner = Holder(constant(1), fc=linear())
        net = with_method(lambda self: init_weights(self.inner, constant(5)), inner=inner)
        with pytest.warns(InitWarning, match="Holder is initialised already"):
            init_weights(net)
        assert values(inner) == {"fc.weight": 1, "fc.bias": 1}

    def test_a_neighbour_that_a_method_initialised_is_not_initialised_again(self) -> None:
        def early(self: Any) -> None:
            init_weights(self.others[0])
            nn.init.constant_(self.others[0].fc.weight, 5)

        first, second = with_method(early), Holder(constant(1), fc=linear())
        first.others = [second]  # type: ignore[assignment]  # known, not registered
        init_weights(net := Holder(constant(3), first=first, second=second))
        assert values(net) == {"second.fc.weight": 5, "second.fc.bias": 1}

    def test_outer_rules_write_over_what_was_initialised_before_them(self) -> None:
        class Eager(BaseModule):
            def __init__(self) -> None:
                super().__init__(constant(2, params="bias"))
                self.child = Holder(constant(1), fc=linear())

            def init_weights(self) -> None:
                init_weights(self.child)
                super().init_weights()

        init_weights(net := Eager())
        assert values(net) == {"child.fc.weight": 1, "child.fc.bias": 2}

    def test_a_module_made_by_the_method(self) -> None:
        def grow(self: Any) -> None:
            self.made = linear()
            self.scale = nn.Parameter(torch.zeros(2))
            initialize(self, [constant(4, name="made"), constant(5, params="scale")])

        report = init_weights(net := Holder(net=with_method(grow)))
        assert values(net) == {"net.scale": 5, "net.made.weight": 4, "net.made.bias": 4}
        assert sources(report) == {
            "net.scale": "init_cfg[1]",
            **dict.fromkeys(("net.made.weight", "net.made.bias"), "init_cfg[0]"),
        }

    @pytest.mark.parametrize("init_cfg", [None, constant(7)])
    def test_what_is_made_before_super_gets_the_rules(self, init_cfg: Any) -> None:
        class Grows(BaseModule):
            def __init__(self) -> None:
                super().__init__([constant(1), constant(4, name="gone")])
                self.fc, self.old = linear(), linear()

            def init_weights(self) -> None:
                self.fc, self.made = linear(), linear()
                super().init_weights()

        net = Grows()
        with pytest.warns(InitWarning, match="'gone' matches nothing") if init_cfg is None else nullcontext():
            report = init_weights(net, init_cfg)
        assert set(values(net)) == {f"{part}.{name}" for part in ("fc", "old", "made") for name in ("weight", "bias")}
        assert set(values(net).values()) == {1 if init_cfg is None else 7}
        assert set(sources(report).values()) == {"Grows.init_cfg[0]" if init_cfg is None else "init_cfg"}
        assert {told.partition(":")[0] for told in report.warnings} == (
            {"Grows.init_cfg[1]"} if init_cfg is None else set()
        )

    def test_a_module_that_is_replaced_before_a_checkpoint_fills_it(self, tmp_path: Path) -> None:
        def replace(self: Any) -> None:
            self.fc = linear()

        net = Holder(pretrained(tmp_path / "w.pth", {"net.fc.weight": 4}), net=with_method(replace, fc=linear()))
        with pytest.raises(
            InitConfigError, match=r"Holder.init_cfg: cannot write 'net.fc.weight': Own.init_weights has"
        ):
            init_weights(net)

    def test_a_parameter_that_is_replaced_is_filled(self, tmp_path: Path) -> None:
        rule = pretrained(tmp_path / "w.pth", {"net.fc.weight": 4})
        net = Holder(rule, net=with_method(lambda self: replace_parameter(self.fc), fc=linear()))
        init_weights(net)
        assert values(net) == {"net.fc.weight": 4, "net.fc.bias": 0}

    def test_a_method_that_asks_for_itself_is_not_called_again(self) -> None:
        calls = []

        def again(self: Any) -> None:
            calls.append(self)
            init_weights(self)
            nn.init.constant_(self.fc.bias, 6)

        net = with_method(again, constant(1), fc=linear())
        init_weights(Holder(net=net))
        assert len(calls) == 1
        assert values(net) == {"fc.weight": 1, "fc.bias": 6}

    def test_what_the_outer_one_keeps_is_kept(self) -> None:
        net = with_method(lambda self: initialize(self, constant(3)), fc=linear(), kept=linear())
        report = init_weights(Holder({"type": "Keep", "name": "net.kept"}, net=net))
        assert values(net) == {"fc.weight": 3, "fc.bias": 3, "kept.weight": 0, "kept.bias": 0}
        assert report["net.kept.weight"].kept_by == "Holder.init_cfg"

    def test_a_fault_inside_is_raised(self) -> None:
        net = with_method(lambda self: initialize(self, constant(3, layer=5)), fc=linear())
        with as_before(net, InitConfigError, "init_cfg.layer"):
            init_weights(net, seed=0)

    def test_a_warning_inside_stands_in_the_report(self) -> None:
        net = with_method(lambda self: initialize(self, constant(3, name="nope")), fc=linear())
        with pytest.warns(InitWarning, match="'nope' matches nothing"):
            report = init_weights(net)
        assert len(report.warnings) == 1

    def test_afterwards_calls_are_initialisations_of_their_own(self) -> None:
        net = with_method(lambda _: 1 / 0, fc=nn.Linear(8, 8))
        with pytest.raises(ZeroDivisionError):
            init_weights(net)
        initialize(net, {"type": "Normal", "layer": "Linear"}, seed=1)
        initialize(other := Holder(fc=nn.Linear(8, 8)), {"type": "Normal", "layer": "Linear"}, seed=1)
        assert digests(net) == digests(other)


class TestNumbersInAMethod:
    @staticmethod
    def drawing() -> Holder:
        return Holder(
            a=with_method(lambda self: nn.init.normal_(self.fc.weight), fc=nn.Linear(8, 8)),
            b=with_method(lambda self: normal_init(self.fc), fc=nn.Linear(8, 8)),
        )

    @staticmethod
    def weights(net: nn.Module) -> tuple[Tensor, Tensor]:
        return net.get_parameter("a.fc.weight"), net.get_parameter("b.fc.weight")

    def test_they_depend_on_seed_and_name_alone(self) -> None:
        torch.manual_seed(0)
        init_weights(one := self.drawing(), seed=5)
        torch.manual_seed(1)
        torch.rand(100)
        init_weights(two := self.drawing(), seed=5)
        init_weights(three := self.drawing(), seed=6)
        for i, (first, second) in enumerate(zip(self.weights(one), self.weights(two), strict=True)):
            assert torch.equal(first, second)
            assert not torch.equal(first, self.weights(three)[i])
        # The functional API draws from the same generator as torch.nn.init does, so only the names tell them apart.
        assert not torch.equal(*self.weights(one))

    def test_the_order_of_modules_does_not_count(self) -> None:
        init_weights(one := self.drawing(), seed=5)
        parts = self.drawing()
        init_weights(other := Holder(b=parts.get_submodule("b"), a=parts.get_submodule("a")), seed=5)
        for first, second in zip(self.weights(one), self.weights(other), strict=True):
            assert torch.equal(first, second)

    def test_the_users_generator_is_as_before(self) -> None:
        net = self.drawing()
        before = torch.get_rng_state()
        init_weights(net, seed=5)
        assert torch.equal(torch.get_rng_state(), before)

    def test_also_after_an_exception(self) -> None:
        def fail(_: Any) -> None:
            torch.rand(3)
            message = "on purpose"
            raise ValueError(message)

        net = Holder(constant(1), net=with_method(fail, fc=linear()))
        before = torch.get_rng_state()
        with pytest.raises(ValueError, match="on purpose"):
            init_weights(net, seed=5)
        assert torch.equal(torch.get_rng_state(), before)
        assert getattr(net, "is_init", False) is False

    @pytest.mark.parametrize("call", [init_weights, partial(initialize, init_cfg=constant(1))])
    def test_without_a_seed_one_draw_is_taken(self, call: Callable[..., InitReport]) -> None:
        net = self.drawing()
        net.init_cfg = constant(1)
        torch.manual_seed(0)
        report = call(net)
        after = torch.get_rng_state()
        torch.manual_seed(0)
        assert int(torch.randint(2**63 - 1, (), dtype=torch.int64)) == report.seed
        assert torch.equal(torch.get_rng_state(), after)

    def test_each_call_without_a_seed_gives_other_numbers(self) -> None:
        one, other = (initialize(nn.Linear(8, 8), {"type": "Normal", "layer": "Linear"}) for _ in range(2))
        assert one.seed != other.seed


class TestMeta:
    def test_a_method_would_write_in_vain(self) -> None:
        with torch.device("meta"):
            net = with_method(lambda self: nn.init.ones_(self.fc.weight), fc=nn.Linear(1, 1))
        with pytest.raises(InitConfigError, match=r"Own.init_weights: 'net.fc.bias' is on the meta device"):
            init_weights(Holder(net=net))

    def test_a_part_on_meta_that_nothing_writes_is_no_error(self) -> None:
        net = Holder(constant(1, name="a"), a=linear(), b=nn.Linear(1, 1, device="meta"))
        report = init_weights(net)
        assert value(net.get_parameter("a.weight")) == 1
        assert report.untouched == ["b.weight", "b.bias"]

    def test_a_kept_one_neither(self) -> None:
        with torch.device("meta"):
            net = with_method(lambda _: None, fc=nn.Linear(1, 1))
        init_weights(
            Holder([{"type": "Keep", "params": "*"}, constant(1, name="a")], net=net, a=linear()), strict=False
        )


class TestParts:
    def test_modules_that_are_no_children_have_streams_of_their_own(self) -> None:
        class Hiding(Holder):
            def __init__(self) -> None:
                super().__init__()
                self.hidden = [nn.Linear(2, 2), nn.Linear(2, 2)]

            def init_weights(self) -> None:
                for module in self.hidden:
                    initialize(module, {"type": "Normal", "layer": "Linear"})

        first, again = Hiding(), Hiding()
        init_weights(first, seed=1)
        init_weights(again, seed=1)
        assert not torch.equal(first.hidden[0].weight, first.hidden[1].weight)
        assert all(torch.equal(a.weight, b.weight) for a, b in zip(first.hidden, again.hidden, strict=True))

    def test_the_work_grows_with_the_number_of_parts_and_not_with_its_square(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Counted in looks at tensors, since seconds depend on what else the machine does."""
        looks = 0
        held = slot.tensors_of

        def counting(module: nn.Module) -> Any:
            nonlocal looks
            looks += 1
            return held(module)

        monkeypatch.setattr(tree, "tensors_of", counting)

        def looks_for(count: int) -> int:
            nonlocal looks
            looks = 0
            parts = {f"part{i}": linear() for i in range(count)}
            net = with_method(lambda self: [initialize(part, constant(1)) for part in self.children()], None, **parts)
            init_weights(net)
            assert set(values(net).values()) == {1}
            return looks

        few, many = looks_for(20), looks_for(80)
        assert many < 5 * few


@INITIALIZERS.register("MeetingForTests")
@dataclass(frozen=True)
class MeetingInit(TensorInitializer):
    """Fills a weight only while another thread fills another one."""

    concurrent: ClassVar[bool] = True
    meeting: ClassVar[threading.Barrier]

    def fill(self, tensor: torch.Tensor, fans: Any, generator: torch.Generator | None) -> None:
        self.meeting.wait(10)
        tensor.uniform_(generator=generator)


def filled_together(meet: int, names: Sequence[str], **how: Any) -> dict[str, str]:
    MeetingInit.meeting = threading.Barrier(meet)
    net = Holder(**{name: nn.Linear(4, 4) for name in names})
    init_weights(net, {"type": "MeetingForTests", "layer": "Linear"}, seed=0, **how)
    return digests(net)


def test_initializers_that_say_so_fill_several_tensors_at_once() -> None:
    with threads(2):
        together = filled_together(2, ["a", "b"])
    assert together == filled_together(1, ["a"]) | filled_together(1, ["b"])


def test_as_many_threads_as_one_asks_for() -> None:
    together = filled_together(3, ["a", "b", "c"], threads=3)
    with threads(3):
        assert together == filled_together(1, ["a", "b", "c"], threads=1)


class TestMemoryOfTwoParameters:
    """A copy-paste of `tied = nn.Parameter(first.data)` makes two parameters of one memory."""

    @pytest.mark.parametrize("size", [2**12, 2**20])
    def test_the_last_one_wins(self, size: int) -> None:
        class Views(nn.Module):
            def __init__(self, *names: str) -> None:
                super().__init__()
                memory = torch.empty(size)
                for name in names:
                    self.register_parameter(name, nn.Parameter(memory[: size // 2] if name == "part" else memory))

        def weights(*names: str) -> dict[str, str]:
            net = Views(*names)
            init_weights(net, {"type": "Normal", "layer": "Views", "params": "*"}, seed=0, threads=2)
            return digests(net)

        last = weights("last")["last"]
        for _ in range(5):
            assert weights("first", "part", "last") == {**weights("part", "last"), "first": last}
            assert weights("part", "last")["last"] == last

    def test_two_arrays_of_numpy_have_a_storage_each(self) -> None:
        def weights(*names: str) -> dict[str, str]:
            memory = np.zeros(2**20, dtype=np.float32)
            net = Holder()
            for name in names:
                view = memory[8:] if name == "part" else memory
                net.register_parameter(name, nn.Parameter(torch.from_numpy(view)))
            init_weights(net, {"type": "Normal", "layer": "Holder", "params": "*"}, seed=0, threads=2)
            return digests(net)

        last = weights("last")["last"]
        assert all(weights("part", "last")["last"] == last for _ in range(5))


class _Beside(nn.Module):
    """A parametrization that adds another weight of the same model."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(size, size)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table.weight

    def right_inverse(self, y: Tensor) -> Tensor:
        return y - self.table.weight


@pytest.mark.parametrize("size", [20, 300])
def test_what_a_right_inverse_reads_is_there(size: int) -> None:
    net = nn.Module()
    net.beside = _Beside(size)
    net.linear = nn.Linear(size, size)
    parametrize.register_parametrization(net.linear, "weight", net.beside)
    init_weights(net, {"type": "Normal", "layer": ["Linear", "Embedding"]}, seed=0)
    assert abs(float(net.linear.weight.detach().std()) - 1) < 5 / size


def test_within_inference_mode() -> None:
    with torch.inference_mode():
        net = nn.ModuleList(nn.Linear(300, 300) for _ in range(3))
        init_weights(net, {"type": "Normal", "layer": "Linear"}, seed=0, threads=2)
        assert all(abs(float(linear.state_dict()["weight"].std()) - 1) < 0.05 for linear in net)


def test_tensors_of_a_class_of_their_own_are_filled_between_others() -> None:
    net = nn.ModuleList(nn.Linear(300, 300, bias=False) for _ in range(3))
    two = TwoTensor(torch.zeros(300, 300), torch.zeros(300, 300))
    net[1].register_parameter("weight", nn.Parameter(two))
    init_weights(net, {"type": "Normal", "layer": "Linear"}, seed=0, threads=2)
    assert all(abs(float(weight.detach().std()) - 1) < 0.05 for weight in net.parameters())
