"""The probe: what it records, and that nothing is left of it, bit for bit."""

from __future__ import annotations

import gc
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from transformers import BertConfig, BertModel

from lightning_init import InitError, WeightStatistics, lending
from lightning_init.digests import digest
from lightning_init.probe import probe
from lightning_init.report import LayerSignal


def by_name(signal: tuple[LayerSignal, ...]) -> dict[str, LayerSignal]:
    assert [layer.depth for layer in signal] == list(range(len(signal)))
    return {layer.name: layer for layer in signal}


class Restless(nn.Module):
    """It changes everything that a module can change of itself while it runs."""

    ema: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4, max_norm=0.5)  # writes into its weight
        self.conv = parametrizations.spectral_norm(nn.Conv1d(4, 6, 1))  # its vectors move
        self.norm = nn.BatchNorm1d(6)
        self.rnn = nn.LSTM(6, 6)
        self.drop = nn.Dropout(0.5)
        self.tied = nn.Linear(6, 5)
        self.tied.weight = nn.Parameter(torch.randn(5, 6))
        self.again = nn.Linear(6, 5, bias=False)
        self.again.weight = self.tied.weight
        self.frozen = nn.Linear(5, 5).requires_grad_(requires_grad=False)
        self.never = nn.Linear(2, 2)
        self.register_buffer("ema", torch.ones(5))
        self.register_buffer("nothing", None)
        self.statistics = WeightStatistics()
        self.seen: list[Tensor] = []
        self.counts = {"calls": 0, "inner": {"deep": [1]}}
        self.plain = torch.zeros(2)
        self.bank = {"keys": (torch.zeros(2), [torch.zeros(2)], deque([torch.zeros(2)]))}
        self.eval_part = nn.Dropout(0.1).eval()

    def forward(self, given: Tensor, *, fail: bool = False) -> Tensor:
        inner = self.norm(self.conv(self.table(given).transpose(1, 2)))
        inner = self.drop(self.eval_part(self.rnn(inner.transpose(1, 2))[0]))
        output: Tensor = self.frozen(F.relu(self.tied(inner) + self.again(inner), inplace=True))
        self.ema.mul_(0.9)
        self.ema = self.ema + 1
        with torch.no_grad():
            self.tied.bias.data.add_(1)
            self.never.weight.mul_(2)
        self.statistics.update({"output": output})
        self.seen.append(output)
        self.counts["calls"] = 1
        self.counts["inner"]["deep"].append(2)  # type: ignore[index]  # a dict of its own
        self.plain += 1
        key, keys, latest = self.bank["keys"]
        key += 1
        keys[0] += 1
        keys.append(key)
        latest[0] += 1
        self.late = output
        self.never = nn.Linear(1, 1)
        self.train(mode=not self.training)
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002, S311
        if fail:
            raise RuntimeError("as asked")
        return output


def state(module: nn.Module) -> dict[str, Any]:
    """All that must be as before: bits, identities, attributes, modes, hooks, generators."""
    modules = dict(module.named_modules())
    tensors = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
    gradients = {name: tensor.grad for name, tensor in tensors.items()}
    held = [(name, key, value) for name, each in modules.items() for key, value in vars(each).items()]
    hooks = [(name, key, value) for name, key, value in held if "hooks" in key]
    return {
        "bits": {name: digest([tensor]) for name, tensor in tensors.items()},
        "tensors": {name: (id(tensor), tensor.requires_grad, tensor._version) for name, tensor in tensors.items()},
        "gradients": {name: (id(grad), grad is not None and digest([grad])) for name, grad in gradients.items()},
        "modules": {name: (id(each), each.training, type(each)) for name, each in modules.items()},
        "attributes": {name: {key: id(value) for key, value in vars(each).items()} for name, each in modules.items()},
        "hooks": [(name, key, list(value)) for name, key, value in hooks if value],
        "plain": repr([vars(module).get(name) for name in ("seen", "counts", "plain", "bank")]),
        "metric": list(module.statistics.records) if isinstance(module, Restless) else None,
        "generators": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),  # type: ignore[index]  # noqa: NPY002
        "grad mode": torch.is_grad_enabled(),
    }


class TestNothingChanges:
    @pytest.mark.parametrize("fails", [False, True])
    def test_of_all_that_a_module_can_do_to_itself(self, fails: bool) -> None:
        torch.manual_seed(0)
        module = Restless()
        module.norm.weight.grad = torch.full((6,), 3.0)
        calls: Counter[str] = Counter()
        module.tied.weight.register_hook(lambda grad: calls.update(["grad"]))
        module.tied.weight.register_post_accumulate_grad_hook(lambda parameter: calls.update(["accumulated"]))
        module.tied.register_forward_hook(lambda *given: None)
        before = state(module)
        batch = torch.tensor([[0, 1], [2, 3], [4, 0]])
        if fails:
            with pytest.raises(RuntimeError, match="as asked"):
                probe(module, {"given": batch, "fail": True})
        else:
            assert len(probe(module, batch)) == 7
        assert state(module) == before
        # Hooks of others on the weights (a fused optimizer, DDP) see nothing of it.
        assert not calls

    def test_of_parameters_however_many_there_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lending, "_MOST", 0)
        module = Restless()
        before = state(module)
        probe(module, torch.tensor([[0, 1], [2, 3], [4, 0]]))
        after = state(module)
        assert {name: after[name] for name in ("bits", "tensors")} == {
            name: before[name] for name in ("bits", "tensors")
        }

    def test_what_is_restored_would_have_changed(self) -> None:
        module = Restless()
        before = state(module)
        module(torch.tensor([[0, 1], [2, 3], [4, 0]])).sum().backward()
        after = state(module)
        assert {key for key in before if before[key] == after[key]} == {"grad mode", "hooks"}

    def test_of_a_failing_backward(self) -> None:
        class Broken(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, given: Tensor) -> Tensor:
                return given * 2

            @staticmethod
            def backward(ctx: Any, *gradients: Tensor) -> Tensor:
                raise ValueError("no way back")

        module = nn.Linear(3, 3)
        before = state(module)
        with pytest.raises(ValueError, match="no way back"):
            probe(module, torch.randn(2, 3), step=lambda batch: Broken.apply(module(batch)).sum())  # type: ignore[no-untyped-call]
        after = state(module)
        # The batch was drawn between.
        assert {key for key in before if before[key] != after[key]} == {"generators"}

    def test_of_the_batch(self) -> None:
        batch = (torch.ones(2, 3, requires_grad=True), [torch.ones(2, 3)])

        class Writing(nn.Linear):
            def forward(self, given: Tensor, more: list[Tensor]) -> Tensor:  # type: ignore[override]  # its own
                more.append(more[0].mul_(3))
                return super().forward(given)

        probe(Writing(3, 3), batch)
        assert batch[0].grad is None
        assert len(batch[1]) == 1
        assert batch[1][0].eq(1).all()

    def test_a_lazy_module_stays_lazy(self) -> None:
        module = nn.Sequential(nn.LazyLinear(3), nn.ReLU())
        probe(module, torch.randn(4, 2))
        assert isinstance(module[0], nn.LazyLinear)
        assert module(torch.randn(4, 5)).shape == (4, 3)

    def test_the_modes_of_grad_and_inference(self) -> None:
        module, batch = nn.Linear(3, 2), torch.randn(4, 3)
        with torch.no_grad():
            found = probe(module, batch)
            assert not torch.is_grad_enabled()
        with torch.inference_mode():
            assert probe(module, batch) == found
            assert torch.is_inference_mode_enabled()
        assert found[0].gradient_std > 0

    def test_compiled_code_is_neither_made_nor_used(self) -> None:
        inner = nn.Linear(3, 3)
        made: list[object] = []

        def backend(graph: Any, inputs: Any) -> Any:
            made.append(graph)
            return graph.forward

        compiled = nn.Sequential(cast("nn.Module", torch.compile(inner, backend=backend)), nn.ReLU())
        assert [layer.name for layer in probe(compiled, torch.randn(2, 3))] == ["0", "1"]
        assert made == []
        compiled(torch.randn(2, 3))
        assert len(made) == 1

    def test_a_script_module_is_refused(self) -> None:
        with pytest.warns(DeprecationWarning, match="jit"):
            module = torch.jit.script(nn.Linear(2, 2))
        with pytest.raises(InitError, match="ScriptModule"):
            probe(nn.Sequential(module), torch.randn(2, 2))


class TestWhatIsRecorded:
    def test_the_numbers_are_those_of_torch(self) -> None:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        batch = torch.randn(11, 5)
        found = probe(module, batch, step=lambda given: module(given).square().sum())
        outputs = [module[0](batch)]
        outputs += [module[1](outputs[0])]
        outputs += [module[2](outputs[1])]
        gradients = torch.autograd.grad(outputs[2].square().sum(), outputs)
        assert [(layer.name, layer.layer, layer.kind) for layer in found] == [
            ("0", "Linear", "weights"),
            ("1", "Tanh", "other"),
            ("2", "Linear", "weights"),
        ]
        for layer, output, gradient in zip(found, outputs, gradients, strict=True):
            assert layer.mean == pytest.approx(output.mean().item(), rel=1e-4)
            assert layer.std == pytest.approx(output.std().item(), rel=1e-5)
            assert layer.gradient_std == pytest.approx(gradient.std().item(), rel=1e-5)
        assert [layer.units for layer in found] == [7, 7, 3]

    def test_without_a_loss_the_gradient_starts_with_std_one(self) -> None:
        # 100 x 200 numbers: five standard errors of the std are 5 / sqrt(40000).
        (layer,) = probe(nn.Linear(3, 200), torch.randn(100, 3))
        assert layer.gradient_std == pytest.approx(1, abs=0.025)
        # A sum of squares would be constant behind a normalisation.
        linear, _ = probe(nn.Sequential(nn.Linear(3, 200), nn.LayerNorm(200)), torch.randn(100, 3))
        assert linear.gradient_std > 0.1

    def test_it_is_the_same_every_time(self) -> None:
        module, batch = nn.Sequential(nn.Linear(5, 7), nn.Dropout(), nn.Linear(7, 3)), torch.randn(11, 5)
        assert probe(module, batch) == probe(module, batch)

    def test_the_loss_scale_is_taken_out_again(self) -> None:
        module, batch = nn.Linear(5, 7), torch.randn(11, 5, requires_grad=True)
        seen: list[float] = []
        module.register_full_backward_hook(lambda *given: seen.append(given[2][0].std().item()))
        (plain,), (scaled,) = probe(module, batch), probe(module, batch, loss_scale=1024.0)
        assert scaled.gradient_std == pytest.approx(plain.gradient_std)
        assert seen[1] == pytest.approx(1024 * seen[0])

    def test_dead_units(self) -> None:
        linear = nn.Linear(3, 4)
        with torch.no_grad():
            linear.bias.copy_(torch.tensor([-100.0, 100, -100, 100]))
        _, relu = probe(nn.Sequential(linear, nn.ReLU()), torch.randn(5, 3))
        assert (relu.dead, relu.units) == (0.5, 4)

    def test_the_units_of_a_convolution_are_its_channels(self) -> None:
        conv = nn.Conv2d(3, 4, 3)
        with torch.no_grad():
            conv.bias[1] = -100  # type: ignore[index]  # it has one
        _, relu = probe(nn.Sequential(conv, nn.ReLU(inplace=True)), torch.randn(2, 3, 9, 8))
        assert (relu.dead, relu.units) == (0.25, 4)
        one = nn.Sequential(nn.Conv1d(3, 5, 1), nn.ReLU())
        assert [layer.units for layer in probe(one, torch.randn(2, 3, 7))] == [5, 5]
        tokens = nn.Sequential(nn.Linear(3, 5), nn.ReLU())
        assert [layer.units for layer in probe(tokens, torch.randn(2, 7, 3))] == [5, 5]

    def test_in_front_of_an_activation_in_place(self) -> None:
        torch.manual_seed(0)
        linear = nn.Linear(5, 7)
        batch = torch.randn(11, 5)
        kept = probe(nn.Sequential(linear, nn.ReLU()), batch)
        in_place = probe(nn.Sequential(linear, nn.ReLU(inplace=True)), batch)
        assert in_place == kept

    def test_all_calls_of_a_layer_are_one_entry(self) -> None:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.relu, self.fc = nn.ReLU(), nn.Linear(2, 2)

            def forward(self, given: Tensor) -> Tensor:
                return torch.cat([self.relu(given), self.relu(self.fc(-given))])

        module, batch = Twice(), torch.tensor([[1.0, -1.0], [3.0, -1.0]])
        nn.init.eye_(module.fc.weight)
        nn.init.zeros_(module.fc.bias)
        found = by_name(probe(module, batch))
        assert list(found) == ["relu", "fc"]
        # Both calls: (1, 0, 3, 0) and (0, 1, 0, 1); no unit is dead in both.
        assert found["relu"].mean == pytest.approx(0.75)
        assert found["relu"].std == pytest.approx(torch.tensor([1.0, 0, 3, 0, 0, 1, 0, 1]).std().item())
        assert found["relu"].dead == 0

    def test_what_is_no_layer_is_left_out(self) -> None:
        module = nn.Sequential(
            parametrizations.weight_norm(nn.Conv2d(1, 2, 1)), nn.Identity(), nn.Dropout(), nn.Flatten(), nn.Linear(8, 2)
        )
        assert [layer.name for layer in probe(module, torch.randn(3, 1, 2, 2))] == ["0", "4"]

    def test_modules_with_weights_of_their_own_count_as_layers(self) -> None:
        attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        found = by_name(probe(attention, torch.randn(2, 3, 8)))
        assert found["self_attn"].kind == "weights"
        assert "self_attn.out_proj" not in found  # it is not called
        assert found["norm1"].kind == "norm"

    def test_frozen_layers_before_the_first_trainable_one_have_no_gradient(self) -> None:
        module = nn.Sequential(nn.Linear(2, 3).requires_grad_(requires_grad=False), nn.Linear(3, 3))
        first, second = probe(module, torch.randn(4, 2))
        assert np.isnan(first.gradient_std)
        assert second.gradient_std > 0

    def test_a_step_without_a_loss_is_a_forward_pass(self) -> None:
        module = nn.Linear(2, 3)

        def forward_only(batch: Tensor) -> None:
            module(batch)

        (layer,) = probe(module, torch.randn(4, 2), step=forward_only)
        assert layer.std > 0
        assert np.isnan(layer.gradient_std)

    def test_a_loss_in_a_mapping(self) -> None:
        module, batch = nn.Linear(2, 3), torch.randn(4, 2)
        wanted = probe(module, batch, step=lambda given: module(given).sum())
        assert probe(module, batch, step=lambda given: {"loss": module(given).sum(), "more": 1}) == wanted


@dataclass
class Answer:
    ids: Tensor
    scores: Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda output: (output, output * 0),
        lambda output: [output.argmax(-1), output],
        lambda output: {"ids": output.argmax(-1), "scores": {"deep": output}},
        lambda output: Answer(output.argmax(-1), output),
    ],
    ids=["tuple", "list", "mapping", "dataclass"],
)
def test_outputs_of_any_make(wrap: Callable[[Tensor], Any]) -> None:
    class Wrapping(nn.Linear):
        def forward(self, given: Tensor) -> Any:
            return wrap(super().forward(given))

    module, batch = Wrapping(3, 50), torch.randn(40, 3)
    (layer,) = probe(module, batch)
    assert layer.std == pytest.approx(F.linear(batch, module.weight, module.bias).std().item(), rel=1e-5)
    # Five standard errors of 2000 numbers.
    assert layer.gradient_std == pytest.approx(1, abs=5 / 4000**0.5)


def test_integers_and_no_output_at_all() -> None:
    class Silent(nn.Module):
        def forward(self, given: Tensor) -> Any:
            return None if given.dim() == 1 else given.argmax(-1)

    assert probe(Silent(), torch.randn(3)) == ()
    assert probe(Silent(), torch.randn(3, 2)) == ()


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.body, self.last = (
                nn.Linear(3, 8),
                nn.Sequential(nn.Linear(8, 8), nn.ReLU()),
                nn.Linear(8, 2),
            )
            self.saves = True

        def forward(self, given: Tensor) -> Tensor:
            inner = self.first(given)
            inner = checkpoint(self.body, inner, use_reentrant=reentrant) if self.saves else self.body(inner)
            output: Tensor = self.last(inner)
            return output

    module, batch = Checkpointed(), torch.randn(5, 3)
    saving = probe(module, batch)
    module.saves = False
    for layer, wanted in zip(saving, probe(module, batch), strict=True):
        assert (layer.name, layer.mean, layer.std, layer.dead) == (wanted.name, wanted.mean, wanted.std, wanted.dead)
        assert layer.gradient_std == pytest.approx(wanted.gradient_std)


def test_under_autocast() -> None:
    module, batch = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.randn(5, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low, _ = probe(module, batch)
        wanted = module[0](batch)
    assert wanted.dtype is torch.bfloat16
    assert low.std == pytest.approx(wanted.double().std().item(), rel=1e-6)


def test_activations_are_not_kept() -> None:
    alive: list[int] = []

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(6))

        @torch.no_grad()
        def forward(self, given: Tensor) -> Tensor:
            for layer in self.layers:
                given = layer(given)
                gc.collect()
                alive.append(sum(type(item) is Tensor and item.shape == (37, 64) for item in gc.get_objects()))
            return given

    probe(Deep(), torch.randn(37, 64))
    assert len(alive) == 6
    assert max(alive) <= alive[0]


def test_gradients_of_weights_are_not_kept() -> None:
    first, second = nn.Linear(3, 4), nn.Linear(4, 2)
    module, seen = nn.Sequential(first, second), list[Tensor | None]()

    def step(batch: Tensor) -> Tensor:
        inner = first(batch)
        # By then the gradient of the second layer's weight has been computed.
        inner.register_hook(lambda gradient: seen.append(second.weight.grad))
        return second(inner).square().sum()  # type: ignore[no-any-return]  # a tensor

    probe(module, torch.randn(5, 3), step=step)
    assert seen == [None]


def test_layers_that_are_wrapped_have_the_names_of_the_user() -> None:
    module = nn.DataParallel(nn.Sequential(nn.Linear(2, 2)))
    assert [layer.name for layer in probe(module, torch.randn(2, 2))] == ["0"]


def test_a_model_of_transformers() -> None:
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=16,
        max_position_embeddings=8,
    )
    found = by_name(probe(BertModel(config), {"input_ids": torch.arange(12).reshape(3, 4)}))
    assert next(iter(found)) == "embeddings.word_embeddings"
    assert found["encoder.layer.0.output.LayerNorm"].std == pytest.approx(1, abs=0.1)
    assert found["embeddings.word_embeddings"].gradient_std > 0
