"""The tree as the user wrote it: names, wrappers, what is tied or shared, and writing in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations

from lightning_init import init_weights
from lightning_init.slot import parameter, parameter_names
from lightning_init.tree import Tree, slots, walk
from lightning_init.values import copy_, write
from lightning_init.wrappers import unwrap
from tests.models import Holder, constant, linear

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")


def names(module: nn.Module) -> list[str]:
    return [slot.name for slot in slots(module)]


class TestNames:
    def test_those_of_the_state_dict_in_its_order(self) -> None:
        net = Holder(a=nn.Conv2d(1, 1, 1), b=Holder(norm=nn.BatchNorm2d(1), c=nn.Sequential(nn.Linear(1, 1))))
        net.register_buffer("table", torch.zeros(2))
        net.register_buffer("scratch", torch.zeros(2), persistent=False)
        net.scale = nn.Parameter(torch.ones(1))
        assert sorted(names(net)) == sorted(net.state_dict())
        assert [slot.name for slot in slots(net) if not slot.is_buffer] == [name for name, _ in net.named_parameters()]

    @pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, checkpoint_wrapper])
    def test_wrappers_do_not_count(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        net = Holder(a=linear(), b=Holder(c=linear()))
        wrapped = wrap(Holder(a=wrap(net.get_submodule("a")), b=wrap(nn.DataParallel(net.get_submodule("b")))))
        assert wrapped is not unwrap(wrapped)
        assert names(wrapped) == names(net) == ["a.weight", "a.bias", "b.c.weight", "b.c.bias"]
        assert [path for path, _ in walk(wrapped)] == ["", "a", "b", "b.c"]

    def test_of_fabric_too(self) -> None:
        net = Holder(a=linear())
        wrapped = Fabric(accelerator="cpu", devices=1).setup_module(net)
        assert unwrap(wrapped) is net
        assert names(wrapped) == ["a.weight", "a.bias"]

    def test_a_genuine_part_called_as_those_of_wrappers(self) -> None:
        net = Holder(module=linear(), _orig_mod=linear(), parametrizations=linear())
        expected = [f"{name}.{held}" for name in net._modules for held in ("weight", "bias")]
        assert names(net) == expected

    def test_a_class_that_derives_from_a_wrapper(self) -> None:
        class Mine(nn.DataParallel[nn.Module]):
            pass

        assert names(Mine(linear())) == ["weight", "bias"]

    def test_a_parametrized_tensor_is_one_slot(self) -> None:
        net = Holder(fc=parametrizations.weight_norm(nn.Linear(3, 2)))
        slot = next(slot for slot in slots(net) if slot.parts)
        assert sorted(names(net)) == ["fc.bias", "fc.weight"]
        assert list(slot.parts) == ["fc.parametrizations.weight.original0", "fc.parametrizations.weight.original1"]
        assert {id(tensor) for tensor in slot.tensors} == {
            id(tensor) for name, tensor in net.named_parameters() if "original" in name
        }
        assert slot.shape == (2, 3)

    def test_a_parametrized_buffer_is_a_buffer(self) -> None:
        class Same(nn.Module):
            def forward(self, given: Tensor) -> Tensor:
                return given

        net = Holder()
        net.register_buffer("table", torch.zeros(2))
        nn.utils.parametrize.register_parametrization(net, "table", Same())
        assert [(slot.name, slot.is_buffer) for slot in slots(net)] == [("table", True)]

    @pytest.mark.parametrize("buffer_first", [True, False])
    def test_a_buffer_that_is_a_parameter_elsewhere(self, buffer_first: bool) -> None:
        fc, other = nn.Linear(2, 2, bias=False), Holder()
        other.register_buffer("weight", fc.weight)
        tree = Tree(Holder(other=other, fc=fc) if buffer_first else Holder(fc=fc, other=other))
        (slot,) = tree.slots
        assert slot.is_buffer is buffer_first
        assert tree.held(tree.nodes[other]) == tree.held(tree.nodes[fc]) == {"weight": slot}
        assert tree.parameters(tree.nodes[fc]) == {"weight": slot}
        assert tree.parameters(tree.nodes[other]) == {}

    def test_a_path_of_the_root_itself(self) -> None:
        assert [slot.name for slot in Tree(Holder(fc=linear()), "net.part").slots] == [
            "net.part.fc.weight",
            "net.part.fc.bias",
        ]

    def test_what_is_none_is_not_there(self) -> None:
        net = Holder(fc=nn.Linear(1, 1, bias=False), norm=nn.BatchNorm1d(1, affine=False, track_running_stats=False))
        net.register_module("later", None)
        assert names(net) == ["fc.weight"]
        assert parameter_names(net.get_submodule("fc")) == ["weight"]
        net.register_buffer("later_too", None)
        assert names(net) == ["fc.weight"]
        with pytest.raises(AttributeError, match="later_too"):
            parameter(net, "later_too")


class TestSharing:
    def test_a_tied_parameter_is_one_slot_with_all_names(self) -> None:
        net = Holder(a=linear(), z=linear(), b=linear())
        net.get_submodule("z").weight = net.get_submodule("b").weight = net.get_submodule("a").weight
        (tied,) = (slot for slot in slots(net) if slot.aliases)
        assert (tied.name, tied.aliases, tied.key) == ("a.weight", ("z.weight", "b.weight"), "a.weight")
        assert tied.places == tuple((net.get_submodule(name), "weight") for name in ("a", "z", "b"))

    def test_the_stream_is_that_of_the_smallest_name(self) -> None:
        net = Holder(z=linear(), a=linear())
        net.get_submodule("z").weight = net.get_submodule("a").weight
        (tied,) = (slot for slot in slots(net) if slot.aliases)
        assert (tied.name, tied.key) == ("z.weight", "a.weight")

    def test_two_attributes_of_one_module(self) -> None:
        net = Holder()
        net.first = net.second = nn.Parameter(torch.ones(1))
        (slot,) = slots(net)
        assert (slot.name, slot.aliases) == ("first", ("second",))

    def test_a_shared_module_is_one_node_under_its_first_path(self) -> None:
        shared = Holder(fc=linear())
        net = Holder(x=shared, y=Holder(inner=shared))
        tree = Tree(net)
        assert [node.path for node in tree.nodes.values()] == ["", "x", "x.fc", "y"]
        assert [path for path, _ in tree.below(tree.root)] == ["", "x", "x.fc", "y", "y.inner", "y.inner.fc"]
        assert [slot.names for slot in tree.slots] == [
            ("x.fc.weight", "y.inner.fc.weight"),
            ("x.fc.bias", "y.inner.fc.bias"),
        ]

    def test_a_module_that_holds_itself_ends(self) -> None:
        net = Holder(fc=linear())
        net.fc.again = net  # type: ignore[union-attr]
        assert names(net) == ["fc.weight", "fc.bias"]
        init_weights(net, constant(2))
        assert isinstance(net.fc, nn.Linear)
        assert net.fc.weight.item() == 2

    def test_what_a_module_covers(self) -> None:
        net = Holder(a=linear(), b=Holder(c=linear()))
        tree = Tree(net)
        covered = tree.covered(tree.nodes[net.get_submodule("b")])
        assert {slot.name for slot in covered} == {"b.c.weight", "b.c.bias"}


def fill_with_three(tensor: Tensor) -> None:
    tensor.fill_(3)


class TestWriting:
    def test_a_parameter_stays_the_same_object(self) -> None:
        fc = nn.Linear(2, 2)
        weight, version = fc.weight, fc.weight.data_ptr()
        write(fc, "weight", fill_with_three)
        assert fc.weight is weight
        assert weight.data_ptr() == version
        assert weight.requires_grad
        assert weight.tolist() == [[3, 3], [3, 3]]

    @pytest.mark.parametrize("cls", [nn.Embedding, nn.EmbeddingBag])
    @pytest.mark.parametrize("index", [0, 2, -1])
    @pytest.mark.parametrize(
        "rule",
        [
            {"type": "Constant", "val": 3},
            {"type": "Normal"},
            {"type": "Uniform", "a": 1, "b": 2},
            {"type": "TruncNormal", "mean": 5, "a": 4, "b": 6},
            {"type": "Kaiming"},
            {"type": "Xavier"},
            {"type": "Caffe2Xavier"},
        ],
    )
    def test_a_padding_row_stays_zero_for_every_rule(self, cls: type[Any], index: int, rule: dict[str, Any]) -> None:
        embed = cls(4, 3, padding_idx=index)
        nn.init.ones_(embed.weight)
        init_weights(embed, {**rule, "layer": cls.__name__})
        assert not embed.weight[index].any()
        others = [row for row in range(4) if row != index % 4]
        assert embed.weight[others].all()

    def test_without_a_padding_row_all_rows_are_written(self) -> None:
        embed = nn.Embedding(4, 3)
        init_weights(embed, {"type": "Constant", "val": 3, "layer": "Embedding"})
        assert embed.weight.eq(3).all()

    @pytest.mark.parametrize("order", ["padded first", "padded last", "plain embedding between"])
    def test_a_padding_row_stays_zero_where_it_is_tied(self, order: str) -> None:
        padded = nn.Embedding(4, 3, padding_idx=1)
        parts: dict[str, nn.Module] = {"padded": padded, "plain": nn.Embedding(4, 3), "head": nn.Linear(3, 4)}
        parts["plain"].weight = parts["head"].weight = padded.weight
        wanted = {
            "padded first": ("padded", "plain", "head"),
            "padded last": ("head", "plain", "padded"),
            "plain embedding between": ("plain", "padded", "head"),
        }[order]
        init_weights(Holder(**{name: parts[name] for name in wanted}), constant(5, layer="Linear"))
        assert padded.weight.tolist() == [[5] * 3, [0] * 3, [5] * 3, [5] * 3]

    def test_given_values_are_all_taken(self) -> None:
        embed = nn.Embedding(2, 2, padding_idx=0).half()
        value = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
        copy_(slots(embed)[0], value)
        assert embed.weight.tolist() == value.tolist()
        assert embed.weight.dtype is torch.float16
        assert embed.weight.grad_fn is None

    def test_a_slot_is_alive(self) -> None:
        fc = nn.Linear(2, 2)
        slot = slots(fc)[0]
        fc.weight = nn.Parameter(torch.ones(2, 2))
        assert slot.tensor is fc.weight


def test_lazy_and_meta_are_known() -> None:
    net = Holder(lazy=nn.LazyLinear(2), meta=nn.Linear(1, 1, device="meta"), real=linear())
    found = {slot.name: (slot.is_lazy, slot.is_meta, slot.shape) for slot in slots(net)}
    assert found == {
        "lazy.weight": (True, False, ()),
        "lazy.bias": (True, False, ()),
        "meta.weight": (False, True, (1, 1)),
        "meta.bias": (False, True, (1,)),
        "real.weight": (False, False, (1, 1)),
        "real.bias": (False, False, (1,)),
    }
