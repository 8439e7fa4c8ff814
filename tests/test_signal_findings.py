"""What is remarked about the signal of a probe: on purpose, and never on healthy models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from lightning_init import init_weights
from lightning_init.probe import probe
from lightning_init.report import Finding, InitReport, LayerSignal
from lightning_init.report.signal_findings import BACKWARD, FORWARD, LEAST, signal_findings


def layer(i: int, std: float = 1.0, gradient_std: float = 1.0, kind: str = "weights", **given: Any) -> LayerSignal:
    known = {"mean": 0.0, "dead": 0.0, "units": 100}
    return LayerSignal(str(i), "L", i, std=std, gradient_std=gradient_std, kind=kind, **{**known, **given})


def codes(signal: Sequence[LayerSignal]) -> list[tuple[str, str]]:
    return [(finding.code, finding.where) for finding in signal_findings([], signal)]


class TestTrends:
    @pytest.mark.parametrize(("rate", "code"), [(0.1, "vanishing-signal"), (10, "exploding-signal")])
    def test_forward_where_the_limit_is_passed(self, rate: float, code: str) -> None:
        rate *= 0.99 if rate < 1 else 1.01
        assert codes([layer(i, rate**i) for i in range(8)]) == [(code, "3")]

    @pytest.mark.parametrize(("rate", "code"), [(0.1, "vanishing-signal"), (10, "exploding-signal")])
    def test_backward_from_the_last_layer_to_the_first(self, rate: float, code: str) -> None:
        rate *= 0.99 if rate < 1 else 1.01
        assert codes([layer(i, 1.0, rate ** (9 - i)) for i in range(10)]) == [(code, "4")]

    def test_the_numbers_are_told_and_the_line_to_blame(self) -> None:
        net = nn.Sequential(*[nn.Linear(32, 32) for _ in range(8)])
        report = init_weights(net, {"type": "Normal", "layer": "Linear", "std": 0.01}, seed=0).measure()
        report.signal = probe(net, torch.randn(4, 32))
        (finding, _) = [found for found in report.findings if found.code == "vanishing-signal"]
        assert finding.severity == "warning"
        assert finding.source == report["0.weight"].source
        assert "activations shrinks from 0.0" in finding.message
        assert "over 8 layers" in finding.message

    def test_normalisation_sets_the_forward_signal_anew(self) -> None:
        falling = [layer(i, 0.1**i) for i in range(10)]
        assert codes(falling)
        broken = [*falling[:5], layer(99, 1.0, kind="norm"), *falling[5:]]
        assert codes(broken) == []

    def test_a_small_head_and_short_runs_are_fine(self) -> None:
        assert codes([*[layer(i) for i in range(10)], layer(10, 0.1 / FORWARD)]) == []
        assert codes([layer(i, 0.01**i, 0.01 ** (5 - i)) for i in range(LEAST - 1)]) == []

    def test_a_healthy_walk_is_fine(self) -> None:
        torch.manual_seed(0)
        for _ in range(50):
            walk = torch.randn(100).mul(0.3).cumsum(0).exp().tolist()
            assert codes([layer(i, std, 1 / std) for i, std in enumerate(walk)]) == []

    def test_hundreds_of_narrow_layers_lose_it_by_steps_of_either_direction(self) -> None:
        net = nn.Sequential(*[part for _ in range(300) for part in (nn.Linear(16, 16), nn.ReLU())])
        report = init_weights(net, {"type": "Kaiming", "layer": "Linear", "mode": "fan_in"}, seed=0)
        report.signal = probe(net, torch.randn(64, 16, generator=torch.Generator().manual_seed(0)))
        first, last = report.signal[0], report.signal[-2]
        assert first.std > FORWARD**2 * last.std
        assert last.gradient_std > BACKWARD**2 * first.gradient_std
        assert [finding.code for finding in report.findings] == ["vanishing-signal", "vanishing-signal"]

    def test_a_frozen_part_without_gradients(self) -> None:
        signal = [layer(i, 1.0, math.nan if i < 5 else 1.0) for i in range(12)]
        assert codes(signal) == []

    def test_the_limits_are_those_that_are_documented(self) -> None:
        def step(limit: float, factor: float) -> float:
            return float((limit * factor) ** (1 / 7))

        assert codes([layer(i, step(FORWARD, 0.9) ** i) for i in range(8)]) == []
        assert codes([layer(i, step(FORWARD, 1.1) ** i) for i in range(8)]) != []
        assert codes([layer(i, 1, step(BACKWARD, 0.9) ** i) for i in range(8)]) == []
        assert codes([layer(i, 1, step(BACKWARD, 1.1) ** i) for i in range(8)]) != []


class TestDead:
    def test_all_units(self) -> None:
        (finding,) = signal_findings([], [layer(0), layer(1, 0.0, kind="other", dead=1.0), layer(2)])
        assert (finding.code, finding.severity, finding.where) == ("dead-signal", "error", "1")
        assert "100% of its 100 units" in finding.message

    def test_more_than_a_half_and_five_standard_errors(self) -> None:
        # sqrt(1 / 4 n) = 0.05 for 100 units.
        assert codes([layer(0, kind="other", dead=0.74)]) == []
        (finding,) = signal_findings([], [layer(0, kind="other", dead=0.76)])
        assert finding.severity == "warning"

    def test_only_where_it_begins(self) -> None:
        signal = [layer(i, 0.0, kind="other", dead=1.0) for i in range(3)]
        assert codes(signal) == [("dead-signal", "0")]

    def test_layers_with_weights_may_start_at_zero(self) -> None:
        assert codes([layer(0), layer(1, 0.0, dead=1.0), layer(2, 0.0, kind="norm", dead=1.0)]) == []


def test_what_is_not_finite_is_an_error_and_all_that_is_told() -> None:
    signal = [layer(0), layer(1, math.nan, mean=math.nan), layer(2, math.nan, mean=math.nan)]
    (finding,) = signal_findings([], signal)
    assert (finding.code, finding.severity, finding.where) == ("exploding-signal", "error", "1")


def test_a_probe_that_failed() -> None:
    (finding,) = InitReport(None, [], probe_error="RuntimeError: no").findings
    assert isinstance(finding, Finding)
    assert (finding.code, finding.severity) == ("probe-failed", "warning")
    assert "RuntimeError: no" in finding.message


def mlp(layers: int = 10, width: int = 64, *, bias: float = 0.0, std: float | None = None) -> nn.Sequential:
    parts: list[nn.Module] = []
    for _ in range(layers):
        linear = nn.Linear(width, width)
        nn.init.constant_(linear.bias, bias)
        _ = nn.init.kaiming_normal_(linear.weight) if std is None else nn.init.normal_(linear.weight, std=std)
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(width, 10))


class Block(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        nn.init.zeros_(self.get_parameter("body.4.weight"))  # a block that starts as the identity
        self.short = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, given: Tensor) -> Tensor:
        output: Tensor = self.act(self.body(given) + self.short(given))
        return output


def resnet() -> nn.Module:
    blocks = [Block(8, 8), Block(8, 8), Block(8, 16), Block(16, 16), Block(16, 32), Block(32, 32)]
    head = nn.Linear(32, 10)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    nn.init.normal_(head.weight, std=0.01)
    return net


class UNet(nn.Module):
    """Without normalisation, which would hide a trend."""

    def __init__(self) -> None:
        super().__init__()

        def pair(before: int, after: int) -> nn.Module:
            first, second = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
            return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())

        self.down = nn.ModuleList([pair(3, 8), pair(8, 16), pair(16, 32)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)])
        self.merge = nn.ModuleList([pair(32, 16), pair(16, 8)])
        self.head = nn.Conv2d(8, 2, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, given: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for stage in self.down:
            given = stage(F.max_pool2d(given, 2) if kept else given)
            kept.append(given)
        for up, merge, skip in zip(self.up, self.merge, kept[-2::-1], strict=True):
            given = merge(torch.cat([up(given), skip], 1))
        output: Tensor = self.head(given)
        return output


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.rnn, self.head = nn.Embedding(50, 16), nn.LSTM(16, 32, 4, batch_first=True), nn.Linear(32, 5)

    def forward(self, given: Tensor) -> Tensor:
        output: Tensor = self.head(self.rnn(self.words(given))[0][:, -1])
        return output


def bert() -> nn.Module:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 8, "num_attention_heads": 2, "vocab_size": 50}
    return BertForSequenceClassification(BertConfig(intermediate_size=64, **sizes))


def vit() -> nn.Module:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 8, "num_attention_heads": 2, "image_size": 16}
    return ViTForImageClassification(ViTConfig(intermediate_size=64, patch_size=4, **sizes))


def images() -> Tensor:
    return torch.randn(4, 3, 16, 16)


HEALTHY: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "a ResNet": (resnet, images),
    "BERT": (bert, lambda: {"input_ids": torch.randint(0, 50, (2, 64))}),
    "a ViT": (vit, lambda: {"pixel_values": images()}),
    "an LSTM": (Reader, lambda: torch.randint(0, 50, (4, 20))),
    "a U-Net": (UNet, images),
    "a deep MLP": (lambda: mlp(60), lambda: torch.randn(8, 64)),
    "a deep and narrow MLP, of one sample": (lambda: mlp(40, 16), lambda: torch.randn(1, 16)),
}


def logits(output: Any) -> Tensor:
    found: Tensor = output.logits if hasattr(output, "logits") else output
    return found


@pytest.mark.parametrize("name", HEALTHY)
def test_no_alarm_on_healthy_models(name: str) -> None:
    make, batch = HEALTHY[name]
    torch.manual_seed(1)
    model, given = make(), batch()
    signal = probe(model, given)
    assert signal_findings([], signal) == []
    if name in ("a U-Net", "a ViT"):  # their forward signal would be the same
        return

    def step(batch: Any) -> Tensor:
        found = logits(model(**batch) if isinstance(batch, dict) else model(batch))
        return F.cross_entropy(found, torch.zeros(len(found), dtype=torch.long))

    assert signal_findings([], probe(model, given, step=step)) == []


SICK: dict[str, tuple[dict[str, Any], set[str]]] = {
    "a std of 0.01": ({"std": 0.01}, {"vanishing-signal"}),
    "a std of 1": ({"std": 1.0}, {"exploding-signal"}),
    "a bias of -100": ({"bias": -100.0}, {"dead-signal"}),
}


@pytest.mark.parametrize("name", SICK)
def test_alarm_on_sick_models(name: str) -> None:
    given, wanted = SICK[name]
    torch.manual_seed(1)
    found = signal_findings([], probe(mlp(**given), torch.randn(8, 64)))
    assert {finding.code for finding in found} == wanted
    assert all(finding.remedy and finding.message for finding in found)
