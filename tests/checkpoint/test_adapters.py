"""Every adapter alone: what it takes, what it leaves, and the values that it makes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from lightning_init.checkpoint.base import Entry
from lightning_init.checkpoint.matching.adapters import ADAPTERS, Adaptation, Adapter, Adapters, Misfit, check_adapters
from lightning_init.checkpoint.matching.adapters.classifier import classifier
from lightning_init.checkpoint.matching.adapters.input_conv import input_conv
from lightning_init.checkpoint.matching.adapters.pos_embed import pos_embed
from lightning_init.checkpoint.matching.target import Target
from lightning_init.errors import InitConfigError, InitError
from lightning_init.tree import slots


def targets_of(module: nn.Module) -> list[Target]:
    return [
        Target(
            slot.name,
            slot.aliases,
            slot.shape,
            slot.dtype,
            slot.is_buffer,
            owners=tuple(type(owner) for owner, _ in slot.places),
        )
        for slot in slots(module)
    ]


def misfit(module: nn.Module, name: str, shapes: Mapping[str, Sequence[int]]) -> Misfit:
    """A module against a checkpoint that has its shapes, but for those given; None stands for no key."""
    targets = targets_of(module)
    entries = {
        target.name: Entry(tuple(shapes.get(target.name, target.shape)), torch.float32)
        for target in targets
        if shapes.get(target.name, ()) is not None
    }
    position = next(i for i, target in enumerate(targets) if target.name == name)
    return Misfit(name, entries[name], targets[position], position, targets, entries)


def taken(adapter: Adapter, case: Misfit) -> Adaptation:
    answer = adapter(case)
    assert isinstance(answer, Adaptation), answer
    return answer


def made(adapter: Adapter, case: Misfit, value: Tensor) -> Tensor:
    """What an adapter makes of values, which stay as they are."""
    apply = taken(adapter, case).apply
    assert apply is not None
    before = value.clone()
    result = apply(value)
    assert torch.equal(value, before)
    assert tuple(result.shape) == case.target.shape
    return result


def conv(channels: int, kind: type[nn.Module] = nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(2), kind(channels, 4, 3), nn.Conv2d(4, 4, 1))


class TestInputConv:
    @pytest.mark.parametrize(("kind", "kernel"), [(nn.Conv1d, (3,)), (nn.Conv2d, (3, 3)), (nn.Conv3d, (3, 3, 3))])
    @pytest.mark.parametrize("old", [2, 3, 5])
    def test_to_one_channel(self, kind: type[nn.Module], kernel: tuple[int, ...], old: int) -> None:
        case = misfit(conv(1, kind), "1.weight", {"1.weight": (4, old, *kernel)})
        assert taken(input_conv, case).what == f"{old} -> 1 input channels: summed"
        value = torch.randn(4, old, *kernel)
        torch.testing.assert_close(made(input_conv, case, value)[:, 0], sum(value[:, i] for i in range(old)))

    @pytest.mark.parametrize(
        ("old", "new", "turns"),
        [(3, 4, [0, 1, 2, 0]), (3, 2, [0, 1]), (3, 7, [0, 1, 2, 0, 1, 2, 0]), (1, 3, [0, 0, 0])],
    )
    def test_to_more_channels(self, old: int, new: int, turns: list[int]) -> None:
        case = misfit(conv(new), "1.weight", {"1.weight": (4, old, 3, 3)})
        assert taken(input_conv, case).what == f"{old} -> {new} input channels: repeated in turn, times {old}/{new}"
        value = torch.randn(4, old, 3, 3)
        assert torch.equal(made(input_conv, case, value), torch.stack([value[:, i] for i in turns], 1) * (old / new))

    @pytest.mark.parametrize("new", [1, 3, 6])
    def test_grey_images_give_the_same_activations(self, new: int) -> None:
        old = 1 if new == 3 else 3
        value = torch.randn(4, old, 3, 3)
        weight = made(input_conv, misfit(conv(new), "1.weight", {"1.weight": (4, old, 3, 3)}), value)
        grey = torch.randn(1, 1, 5, 5)
        # One grey channel of three is a third of the sum over it.
        expected = nn.functional.conv2d(grey.expand(1, old, 5, 5), value)
        torch.testing.assert_close(nn.functional.conv2d(grey.expand(1, new, 5, 5), weight), expected)

    def test_half_precision_is_summed_in_fp32(self) -> None:
        case = misfit(conv(1), "1.weight", {"1.weight": (4, 3, 3, 3)})
        value = torch.tensor([1.0, 2**-11, 2**-11]).view(1, 3, 1, 1).expand(4, 3, 3, 3).half()
        assert made(input_conv, case, value).unique().tolist() == [1 + 2**-10]
        assert made(input_conv, case, value.double()).dtype == torch.float64

    @pytest.mark.parametrize(
        ("module", "name", "shape", "reason"),
        [
            (conv(4), "1.weight", (4, 5, 3, 3), "there is no convention for 5 -> 4 input channels"),
            (conv(4), "1.weight", (5, 3, 3, 3), "more than the number of input channels differs"),
            (conv(4), "1.weight", (4, 3, 7, 7), "more than the number of input channels differs"),
            (conv(4), "1.weight", (4, 3), "more than the number of input channels differs"),
            (conv(3), "2.weight", (4, 3, 1, 1), "it is not the first convolution, which is '1.weight'"),
            (conv(3), "1.bias", (5,), "it is not the weight of a convolution"),
            (nn.Linear(3, 2), "weight", (2, 4), "it is not the weight of a convolution"),
            (nn.ConvTranspose2d(3, 2, 1), "weight", (3, 4, 1, 1), "it is not the weight of a convolution"),
        ],
    )
    def test_what_it_leaves(self, module: nn.Module, name: str, shape: tuple[int, ...], reason: str) -> None:
        answer = input_conv(misfit(module, name, {name: shape}))
        assert isinstance(answer, str)
        assert answer.startswith(reason)


def body(*heads: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 8), *heads)


FC = {"3.weight": (7, 8), "3.bias": (7,)}


class TestClassifier:
    def test_the_last_linear_layer(self) -> None:
        for name in FC:
            found = taken(classifier, misfit(body(nn.Linear(8, 5)), name, FC))
            assert (found.what, found.drop, found.apply) == ("7 -> 5 outputs: left to the other rules", True, None)

    @pytest.mark.parametrize(
        ("head", "shapes"),
        [
            (nn.Linear(8, 5, bias=False), {"3.weight": (7, 8)}),
            (nn.Linear(8, 5), {"3.weight": (7, 8), "3.bias": None}),
            (nn.Conv2d(8, 5, 1), {"3.weight": (7, 8, 1, 1), "3.bias": (7,)}),
            (nn.Conv1d(8, 5, 1), {"3.weight": (7, 8, 1), "3.bias": (7,)}),
        ],
    )
    def test_other_last_layers(self, head: nn.Module, shapes: Any) -> None:
        assert taken(classifier, misfit(body(head), "3.weight", shapes)).drop

    def test_the_module_itself(self) -> None:
        assert taken(classifier, misfit(nn.Linear(8, 5), "weight", {"weight": (7, 8), "bias": (7,)})).drop

    def test_a_counter_may_follow(self) -> None:
        counter = nn.Module()
        counter.register_buffer("steps", torch.tensor(0))
        assert taken(classifier, misfit(body(nn.Linear(8, 5), counter), "3.weight", FC)).drop

    def test_several_heads(self) -> None:
        module = body(nn.Linear(8, 5), nn.Linear(8, 20))
        shapes = {**FC, "4.weight": (28, 8), "4.bias": (28,)}
        assert all(taken(classifier, misfit(module, name, shapes)).drop for name in shapes)

    @pytest.mark.parametrize(
        ("module", "name", "shapes", "reason"),
        [
            # hidden layers: what follows takes their width, or might
            (body(nn.Linear(8, 5)), "2.weight", {"2.weight": (9, 8), "2.bias": (9,)}, "'3.weight' comes after it"),
            (
                body(nn.Linear(8, 5)),
                "2.weight",
                {"2.weight": (9, 8), "2.bias": (9,), "3.weight": None, "3.bias": None},
                "'3.weight' comes after it and could take what it puts out",
            ),
            (body(nn.Linear(8, 8), nn.LayerNorm(8)), "3.weight", FC, "'4.weight' comes after it"),
            (body(nn.Linear(8, 8), nn.BatchNorm1d(8, affine=False)), "3.weight", FC, "'4.running_mean' comes after it"),
            # both differ, but the last one in what it takes as well
            (
                body(nn.Linear(8, 6), nn.Linear(6, 5)),
                "3.weight",
                {**FC, "4.weight": (7, 7), "4.bias": (7,)},
                "'4.weight' comes after it",
            ),
            # something else of another number of rows
            (
                body(nn.Linear(8, 5), nn.Embedding(5, 8)),
                "3.weight",
                {**FC, "4.weight": (7, 8)},
                "'4.weight' comes after",
            ),
            # no such layer
            (body(nn.Linear(8, 5)), "3.weight", {**FC, "3.weight": (7, 9)}, "weight and bias do not differ in"),
            (body(nn.Linear(8, 5)), "3.bias", {"3.bias": (7,)}, "weight and bias do not differ in"),
            (body(nn.Linear(8, 5)), "3.weight", {"3.weight": (7, 8)}, "weight and bias do not differ in"),
            (body(nn.Conv2d(8, 5, 3)), "3.weight", {"3.weight": (7, 8, 3, 3), "3.bias": (7,)}, "weight and bias do"),
            (nn.Embedding(5, 8), "weight", {"weight": (7, 8)}, "it is not held by Linear layers or 1x1 convolutions"),
            (nn.BatchNorm1d(5), "weight", {"weight": (7,)}, "it is not held by Linear"),
        ],
    )
    def test_what_it_leaves(self, module: nn.Module, name: str, shapes: Any, reason: str) -> None:
        answer = classifier(misfit(module, name, shapes))
        assert isinstance(answer, str)
        assert answer.startswith(reason)

    def test_a_head_that_is_tied_to_an_embedding(self) -> None:
        module = nn.ModuleDict({"emb": nn.Embedding(5, 8), "head": nn.Linear(8, 5)})
        module["head"].weight = module["emb"].weight
        shapes = {"emb.weight": (7, 8), "head.bias": (7,)}
        assert classifier(misfit(module, "emb.weight", shapes)) == (
            "it is not held by Linear layers or 1x1 convolutions alone"
        )
        assert isinstance(classifier(misfit(module, "head.bias", shapes)), str)


def cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' kernel with a = -1/2, the one of antialiased resizing."""
    a, x = -0.5, np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def resampling(old: int, new: int) -> npt.NDArray[np.float64]:
    """The (new x old) matrix of an antialiased bicubic resize: the kernel is widened where there are fewer pixels."""
    scale = old / new
    centres = (np.arange(new) + 0.5) * scale
    weights = cubic((np.arange(old) + 0.5 - centres[:, None]) / max(scale, 1.0))
    matrix: npt.NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return matrix


def resized(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """(H, W, D) to another size, by the definition."""
    rows, columns = resampling(grid.shape[0], size[0]), resampling(grid.shape[1], size[1])
    return torch.from_numpy(np.einsum("yh,xw,hwd->yxd", rows, columns, grid.double().numpy()))


class Embedded(nn.Module):
    """A module with positions, and with patches or without."""

    def __init__(self, *shape: int, name: str = "pos_embed", patches: bool = True) -> None:
        super().__init__()
        if name == "position_embedding":
            self.position_embedding = nn.Embedding(shape[0], shape[1])
        else:
            setattr(self, name, nn.Parameter(torch.zeros(shape)))
        if patches:
            self.patches = nn.Conv2d(3, shape[-1], 4)


def positions(old: Sequence[int], *new: int, name: str = "pos_embed", patches: bool = True) -> Misfit:
    full = f"{name}.weight" if name == "position_embedding" else name
    return misfit(Embedded(*new, name=name, patches=patches), full, {full: old})


class TestPosEmbed:
    @pytest.mark.parametrize(("old", "new"), [(14, 24), (14, 7), (7, 12), (5, 4), (3, 8), (1, 3)])
    @pytest.mark.parametrize("prefix", [0, 1, 2])
    def test_the_values_of_a_grid(self, old: int, new: int, prefix: int) -> None:
        case = positions((1, old * old + prefix, 6), 1, new * new + prefix, 6)
        value = torch.randn(1, old * old + prefix, 6, generator=torch.Generator().manual_seed(old))
        expected = resized(value[0, prefix:].view(old, old, 6), (new, new))
        for given, within in ((value, 1e-5), (value.double(), 1e-12)):
            result = made(pos_embed, case, given)
            assert torch.equal(result[:, :prefix], given[:, :prefix])
            torch.testing.assert_close(result[0, prefix:].view(new, new, 6).double(), expected, atol=within, rtol=0)

    def test_the_report(self) -> None:
        found = taken(pos_embed, positions((1, 197, 6), 1, 577, 6))
        assert found.what == "14x14 -> 24x24 positions: bicubic, antialiased, 1 other tokens kept"
        assert taken(pos_embed, positions((1, 16, 6), 1, 9, 6)).what == "4x4 -> 3x3 positions: bicubic, antialiased"

    def test_a_constant_stays_one(self) -> None:
        value = torch.full((1, 50, 3), 0.7)
        torch.testing.assert_close(made(pos_embed, positions((1, 50, 3), 1, 26, 3), value), torch.full((1, 26, 3), 0.7))

    def test_a_ramp_stays_one_away_from_the_edges(self) -> None:
        ramp = torch.arange(16.0).add(0.5).div(16).view(16, 1, 1).expand(16, 16, 2)
        result = made(pos_embed, positions((1, 256, 2), 1, 1024, 2), ramp.reshape(1, 256, 2)).view(32, 32, 2)
        expected = torch.arange(32.0).add(0.5).div(32).view(32, 1, 1).expand(32, 32, 2)
        torch.testing.assert_close(result[4:-4], expected[4:-4])
        torch.testing.assert_close(result, result[:, :1].expand(32, 32, 2))

    def test_rows_go_with_rows(self) -> None:
        value = torch.zeros(1, 3, 5, 1)
        value[0, 2] = 1
        result = made(pos_embed, positions((1, 3, 5, 1), 1, 6, 4, 1), value)
        torch.testing.assert_close(result[0].double(), resized(value[0], (6, 4)), atol=1e-6, rtol=0)
        assert taken(pos_embed, positions((1, 3, 5, 1), 1, 6, 4, 1)).what.startswith("3x5 -> 6x4 positions")

    def test_an_embedding_of_rows(self) -> None:
        case = positions((50, 4), 17, 4, name="position_embedding")
        value = torch.randn(50, 4)
        result = made(pos_embed, case, value)
        assert torch.equal(result[:1], value[:1])
        expected = resized(value[1:].view(7, 7, 4), (4, 4))
        torch.testing.assert_close(result[1:].view(4, 4, 4).double(), expected, atol=1e-5, rtol=0)

    def test_half_precision_is_interpolated_in_fp32(self) -> None:
        value = torch.randn(1, 50, 4).bfloat16()
        case = positions((1, 50, 4), 1, 17, 4)
        assert torch.equal(made(pos_embed, case, value), made(pos_embed, case, value.float()))
        assert made(pos_embed, case, value.double()).dtype == torch.float64

    @pytest.mark.parametrize(
        ("case", "reason"),
        [
            (positions((1, 17, 4), 1, 50, 4, name="token"), "its name does not have 'pos' in it"),
            (positions((1, 17, 4), 1, 50, 6), "the number of dimensions, or the last of them, differs"),
            (positions((17, 4), 1, 50, 4), "the number of dimensions, or the last of them, differs"),
            (positions((2, 17, 4), 2, 50, 4), "its layout is not"),
            (positions((1, 1, 1, 17, 4), 1, 1, 1, 50, 4), "its layout is not"),
            (positions((1, 17, 4), 1, 51, 4), "17 and 51 positions are not two square grids after the same number"),
            (positions((1, 25, 4), 1, 26, 4), "25 and 26 positions are not two square grids"),
            (positions((77, 4), 248, 4), "77 and 248 positions are not two square grids"),
            # texts of square lengths
            (positions((256, 4), 1024, 4), "256 and 1024 positions without other tokens may be those of a text"),
            (positions((1, 256, 4), 1, 1024, 4, patches=False), "the module has no 2-D convolution"),
            (positions((258, 4), 1026, 4, patches=False), "the module has no 2-D convolution"),
        ],
    )
    def test_what_it_leaves(self, case: Misfit, reason: str) -> None:
        answer = pos_embed(case)
        assert isinstance(answer, str)
        assert answer.startswith(reason)

    def test_the_fewest_tokens_that_fit_and_no_more_than_eight(self) -> None:
        assert "8 other tokens" in taken(pos_embed, positions((1, 100 + 8, 2), 1, 400 + 8, 2)).what
        assert isinstance(pos_embed(positions((1, 100 + 9, 2), 1, 400 + 9, 2)), str)


class TestTheContract:
    def test_the_built_in_ones(self) -> None:
        assert list(ADAPTERS) == ["input_conv", "classifier", "pos_embed"]

    def test_those_of_users_are_asked_first(self) -> None:
        adapters = Adapters({"built_in": classifier})
        assert adapters.register("first")(input_conv) is input_conv
        adapters.register("second")(pos_embed)
        assert dict(adapters) == {"first": input_conv, "second": pos_embed, "built_in": classifier}
        assert list(adapters) == ["first", "second", "built_in"]
        assert len(adapters) == 3
        assert "third" not in adapters

    @pytest.mark.parametrize(
        ("name", "adapter", "told"),
        [
            ("built_in", classifier, "the adapter name 'built_in' is taken"),
            ("", classifier, "an adapter is registered by name"),
            (classifier, classifier, "an adapter is registered by name"),
            ("mine", "classifier", "it cannot be called"),
        ],
    )
    def test_what_cannot_be_registered(self, name: Any, adapter: Any, told: str) -> None:
        with pytest.raises(InitConfigError, match=told):
            Adapters({"built_in": classifier}).register(name)(adapter)

    @pytest.mark.parametrize(
        ("names", "told"),
        [
            (None, []),
            ([], []),
            (("pos_embed", "classifier"), []),
            ("classifier", ["adapters: must be a list of names, or None for all, got 'classifier'"]),
            ({"classifier"}, ["adapters: must be a list of names, or None for all, got {'classifier'}"]),
            (
                ["classifier", "clasifier", 3],
                [
                    "adapters[1]: unknown adapter 'clasifier'; did you mean 'classifier'?",
                    "adapters[2]: must be the name of an adapter, got 3",
                ],
            ),
        ],
    )
    def test_a_choice_of_adapters(self, names: Any, told: list[str]) -> None:
        assert [str(fault) for fault in check_adapters(names)] == told

    @pytest.mark.parametrize(("apply", "drop"), [(None, False), (torch.clone, True)])
    def test_an_adaptation_applies_or_drops(self, apply: Callable[[Tensor], Tensor] | None, drop: bool) -> None:
        with pytest.raises(InitError, match="must either apply something or drop"):
            Adaptation("what", apply, drop=drop)

    def test_an_adaptation_is_pickled_as_a_record(self) -> None:
        dropped = Adaptation("gone", drop=True)
        applied = Adaptation("made", lambda value: value)
        copies = [pickle.loads(pickle.dumps(one)) for one in (dropped, applied)]  # noqa: S301 - our own
        assert copies == [dropped, applied]
        with pytest.raises(InitError, match="is a record"):
            copies[1].apply(torch.ones(1))
