"""Parametrized layers are written through their right inverse or refused, and never silently left as they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from lightning_init import InitConfigError, init_weights, initialize
from lightning_init.parametrized import assign, computed, obstacle
from tests.models import Holder, as_before, digests, pretrained

NORMAL = {"type": "Normal", "layer": "Linear", "std": 0.1}


def plain(seed: int = 1) -> Tensor:
    """What the rule writes into a weight of that shape and name."""
    net = Holder(NORMAL, fc=nn.Linear(4, 3))
    init_weights(net, seed=seed)
    return net.get_parameter("fc.weight").detach()


def weight_of(net: nn.Module) -> Tensor:
    fc = net.get_submodule("fc")
    assert isinstance(fc.weight, Tensor)
    return fc.weight.detach()


class Double(nn.Module):
    """A parametrization with an exact inverse."""

    def forward(self, original: Tensor) -> Tensor:
        return 2 * original

    def right_inverse(self, value: Tensor) -> Tensor:
        return value / 2


class Square(nn.Module):
    """A parametrization without an inverse."""

    def forward(self, original: Tensor) -> Tensor:
        return original**2


class Split(nn.Module):
    """A parametrization of two tensors."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first + second

    def right_inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
        return value / 2, value / 2


class Noisy(Double):
    """Its inverse draws numbers."""

    def right_inverse(self, value: Tensor) -> Tensor:
        return value / 2 + torch.rand_like(value)


def noisy(fc: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(fc, "weight", Noisy())


class TestThroughTheRightInverse:
    @pytest.mark.parametrize(
        "wrap",
        [
            parametrizations.weight_norm,
            lambda fc: parametrize.register_parametrization(fc, "weight", Double()),
            lambda fc: parametrize.register_parametrization(fc, "weight", Split()),
            lambda fc: parametrize.register_parametrization(
                parametrize.register_parametrization(fc, "weight", Double()), "weight", Double()
            ),
        ],
        ids=["weight_norm", "Double", "Split", "chain"],
    )
    def test_the_weight_is_what_the_rule_says(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        net = Holder(NORMAL, fc=wrap(nn.Linear(4, 3)))
        originals = [name for name, _ in net.named_parameters()]
        report = init_weights(net, seed=1)
        torch.testing.assert_close(weight_of(net), plain(), rtol=1e-6, atol=0)
        assert [name for name, _ in net.named_parameters()] == originals
        row = report["fc.weight"]
        assert (row.shape, row.source, row.initializer) == ((3, 4), "Holder.init_cfg", "Normal(mean=0, std=0.1)")
        assert row.expected is None, "what a parametrization makes of the numbers, nobody knows"
        assert {row.name for row in report} == {"fc.weight", "fc.bias"}

    def test_spectral_norm_holds_the_numbers_and_norms_them(self) -> None:
        net = Holder(NORMAL, fc=parametrizations.spectral_norm(nn.Linear(4, 3), n_power_iterations=50))
        init_weights(net, seed=1)
        assert torch.equal(net.get_parameter("fc.parametrizations.weight.original").detach(), plain())
        net.get_submodule("fc")(torch.ones(4))
        largest = torch.linalg.matrix_norm(weight_of(net), 2)
        torch.testing.assert_close(largest, torch.tensor(1.0), rtol=1e-4, atol=0)

    @pytest.mark.parametrize(
        "how",
        [
            {},
            {"orthogonal_map": "matrix_exp"},
            {"orthogonal_map": "cayley"},
            {"orthogonal_map": "householder", "use_trivialization": False},
        ],
    )
    @pytest.mark.parametrize("shape", [(4, 3), (3, 4), (4, 4)])
    def test_orthogonal_stays_so(self, shape: tuple[int, int], how: dict[str, Any]) -> None:
        net = Holder(NORMAL, fc=parametrizations.orthogonal(nn.Linear(*shape), **how))
        before = weight_of(net).clone()
        state = torch.get_rng_state()
        init_weights(net, seed=1)
        assert torch.equal(torch.get_rng_state(), state)
        weight = weight_of(net)
        assert not torch.allclose(weight, before)
        narrow = weight if weight.shape[0] <= weight.shape[1] else weight.T
        torch.testing.assert_close(narrow @ narrow.T, torch.eye(len(narrow)), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("wrap", [parametrizations.orthogonal, noisy])
    def test_an_inverse_that_draws_repeats(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        nets = [Holder(NORMAL, fc=wrap(nn.Linear(3, 4))) for _ in range(3)]
        for net, seed in zip(nets, (1, 1, 2), strict=True):
            torch.rand(3)
            init_weights(net, seed=seed)
        assert torch.equal(weight_of(nets[0]), weight_of(nets[1]))
        assert not torch.equal(weight_of(nets[0]), weight_of(nets[2]))

    def test_a_parametrized_bias_gets_the_rules_bias(self) -> None:
        fc = parametrize.register_parametrization(nn.Linear(2, 2), "bias", Double())
        init_weights(Holder({**NORMAL, "bias": 3}, fc=fc))
        assert isinstance(fc.bias, Tensor)
        assert fc.bias.tolist() == [3, 3]

    def test_a_padding_row_stays_zero(self) -> None:
        embed = parametrize.register_parametrization(nn.Embedding(4, 2, padding_idx=1), "weight", Double())
        init_weights(Holder({"type": "Constant", "val": 6, "layer": "Embedding"}, embed=embed))
        assert isinstance(embed.weight, Tensor)
        assert embed.weight.tolist() == [[6, 6], [0, 0], [6, 6], [6, 6]]

    def test_what_only_computes_is_not_moved(self) -> None:
        fc = parametrizations.spectral_norm(nn.Linear(4, 3))
        norm = fc.get_submodule("parametrizations.weight.0")
        vector = norm.get_buffer("_u").clone()
        computed(fc, "weight")
        assert torch.equal(norm.get_buffer("_u"), vector)
        assert norm.training
        computed(fc.eval(), "weight")
        assert not norm.training


class TestFromACheckpoint:
    def test_the_plain_tensor(self, tmp_path: Path) -> None:
        value = torch.arange(12.0).view(3, 4) + 1
        fc = parametrizations.weight_norm(nn.Linear(4, 3))
        report = init_weights(net := Holder(pretrained(tmp_path / "w.pth", {"fc.weight": value}), fc=fc))
        torch.testing.assert_close(weight_of(net), value, rtol=1e-6, atol=0)
        assert report["fc.weight"].source == "Holder.init_cfg"

    def test_the_parts_bit_for_bit(self, tmp_path: Path) -> None:
        trained = parametrizations.weight_norm(nn.Linear(4, 3))
        state = {f"fc.{name}": tensor for name, tensor in trained.state_dict().items()}
        net = Holder([NORMAL, pretrained(tmp_path / "w.pth", state)], fc=parametrizations.weight_norm(nn.Linear(4, 3)))
        report = init_weights(net)
        assert digests(net)["fc.weight"] == digests(trained)["weight"]
        assert report.unexpected == []

    @pytest.mark.parametrize(("keep", "expected"), [([], 3), ([{"type": "Keep", "params": "table", "name": "**"}], 0)])
    def test_a_buffer(self, tmp_path: Path, keep: list[Any], expected: int) -> None:
        path = "fc.parametrizations.table.original"
        fc = nn.Linear(2, 2)
        fc.register_buffer("table", torch.zeros(2))
        parametrize.register_parametrization(fc, "table", Double())
        net = Holder([pretrained(tmp_path / "w.pth", {path: torch.full((2,), 3.0)}), *keep], fc=fc)
        assert init_weights(net).unexpected == []
        assert net.state_dict()[path].tolist() == [expected, expected]

    def test_a_rule_before_one_part_is_needed_for_the_other(self, tmp_path: Path) -> None:
        parts = {"fc.parametrizations.weight.original0": torch.full((3, 1), 7.0)}
        net = Holder([NORMAL, pretrained(tmp_path / "w.pth", parts)], fc=parametrizations.weight_norm(nn.Linear(4, 3)))
        init_weights(net, seed=1)
        torch.testing.assert_close(weight_of(net), 7 * nn.functional.normalize(plain()), rtol=1e-5, atol=0)


class TestRefused:
    @pytest.mark.parametrize(
        ("wrap", "match"),
        [
            (lambda fc: parametrize.register_parametrization(fc, "weight", Square()), "Square has no right inverse"),
            (
                lambda fc: parametrizations.orthogonal(fc, orthogonal_map="cayley", use_trivialization=False),
                "_Orthogonal has no right inverse",
            ),
        ],
    )
    @pytest.mark.parametrize("kind", ["rule", "checkpoint"])
    def test_with_an_error_that_names_it(
        self, tmp_path: Path, wrap: Callable[[nn.Module], nn.Module], match: str, kind: str
    ) -> None:
        rule = NORMAL if kind == "rule" else pretrained(tmp_path / "w.pth", {"fc.weight": torch.ones(3, 4)})
        net = Holder([{**NORMAL, "name": "other"}, rule], fc=wrap(nn.Linear(4, 3)), other=nn.Linear(4, 3))
        with as_before(
            net, InitConfigError, rf"Holder.init_cfg\[1\]: cannot write 'fc.weight': its parametrization {match}"
        ):
            init_weights(net, seed=1)

    def test_not_where_nothing_writes_it(self) -> None:
        fc = parametrize.register_parametrization(nn.Linear(4, 3), "weight", Square())
        report = initialize(Holder(fc=fc), {**NORMAL, "params": "bias"})
        assert report.untouched == ["fc.weight"]

    def test_not_where_its_parts_are_named(self, tmp_path: Path) -> None:
        fc = parametrize.register_parametrization(nn.Linear(1, 1), "weight", Square())
        rule = pretrained(tmp_path / "w.pth", {"fc.parametrizations.weight.original": torch.full((1, 1), 3.0)})
        init_weights(net := Holder(rule, fc=fc))
        assert weight_of(net).item() == 9

    def test_where_pruning_computes_it(self) -> None:
        fc = nn.Linear(4, 3)
        nn.utils.prune.random_unstructured(fc, "weight", amount=1)
        net = Holder(NORMAL, fc=fc)
        with as_before(net, InitConfigError, "computed from 'weight_orig'"):
            init_weights(net)

    @pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated:FutureWarning")
    @pytest.mark.parametrize(
        ("wrap", "part"), [(nn.utils.weight_norm, "weight_v"), (nn.utils.spectral_norm, "weight_orig")]
    )
    class TestOldHooks:
        def test_a_rule_for_the_weight(self, wrap: Callable[[nn.Module], nn.Module], part: str) -> None:
            net = Holder([{**NORMAL, "name": "other"}, NORMAL], fc=wrap(nn.Linear(4, 3)), other=nn.Linear(4, 3))
            with as_before(net, InitConfigError, rf"Holder.init_cfg\[1\]: 'fc.weight' is computed from '{part}'"):
                init_weights(net)

        @pytest.mark.parametrize("scope", [{"params": "bias"}, {"name": "other"}, {"name": "fc.bias"}])
        def test_rules_for_something_else(
            self, wrap: Callable[[nn.Module], nn.Module], part: str, scope: dict[str, str]
        ) -> None:
            net = Holder({**NORMAL, **scope}, fc=wrap(nn.Linear(4, 3)), other=nn.Linear(4, 3))
            report = init_weights(net)
            assert f"fc.{part}" in report.untouched

        def test_where_it_is_kept(self, wrap: Callable[[nn.Module], nn.Module], part: str) -> None:
            net = Holder([NORMAL, {"type": "Keep", "name": "fc"}], fc=wrap(nn.Linear(4, 3)), other=nn.Linear(4, 3))
            report = init_weights(net)
            assert report.untouched == []
            assert report["other.weight"].source == "Holder.init_cfg[0]"

        def test_not_a_parameter_that_is_only_called_so(
            self, wrap: Callable[[nn.Module], nn.Module], part: str
        ) -> None:
            net = Holder(NORMAL, fc=nn.Linear(2, 2), attention=nn.Linear(2, 2))
            net.get_submodule("attention").register_parameter(part, nn.Parameter(torch.ones(2)))
            report = init_weights(net)
            assert report.untouched == [f"attention.{part}"]

        def test_its_part_by_name(self, wrap: Callable[[nn.Module], nn.Module], part: str) -> None:
            net = Holder({**NORMAL, "params": part}, fc=wrap(nn.Linear(4, 3)))
            report = init_weights(net)
            assert report[f"fc.{part}"].initializer == "Normal(mean=0, std=0.1)"


def test_the_trial_changes_nothing() -> None:
    fc = parametrizations.orthogonal(nn.Linear(3, 4))
    net: Any = Holder(fc=fc)
    before, state = digests(net), torch.get_rng_state()
    assert obstacle(fc, "weight") is None
    assert digests(net) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_assigning_records_no_gradient() -> None:
    fc = parametrizations.weight_norm(nn.Linear(4, 3))
    assign(fc, "weight", torch.ones(3, 4))
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in fc.parameters())


@pytest.mark.parametrize("bad", [{"val": 0.0}, {"val": 0.0, "bias": 1}])
def test_numbers_that_a_parametrization_cannot_hold_are_refused(bad: dict[str, float]) -> None:
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2)), nn.Linear(2, 2))
    before = [parameter.detach().clone() for parameter in net.parameters()]
    with pytest.raises(InitConfigError, match=r"^init_cfg: cannot write '0.weight': .*makes NaN of such numbers$"):
        init_weights(net, {"type": "Constant", "layer": "Linear", **bad})
    assert all(map(torch.equal, before, net.parameters()))
