from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass
from fractions import Fraction
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from lightning_init.errors import InitConfigError, InitError, InitWarning
from lightning_init.initializers.base import INITIALIZERS, Fans, LawInitializer, TensorInitializer, fans_of
from lightning_init.initializers.constant import ConstantInit
from lightning_init.initializers.keep import KeepInit
from lightning_init.initializers.laws import ConstantLaw, Law, NormalLaw, UniformLaw
from lightning_init.initializers.normal import NormalInit, TruncNormalInit
from lightning_init.initializers.uniform import UniformInit
from lightning_init.initializers.variance import Caffe2XavierInit, KaimingInit, XavierInit
from lightning_init.rng import Stream

SHAPE = (160, 96, 3, 3)
N = math.prod(SHAPE)

AS_TORCH: list[tuple[LawInitializer, Callable[[Tensor], Any]]] = [
    (ConstantInit(0.3), lambda w: nn.init.constant_(w, 0.3)),
    (NormalInit(), nn.init.normal_),
    (NormalInit(0.5, 0.02), lambda w: nn.init.normal_(w, 0.5, 0.02)),
    (UniformInit(), nn.init.uniform_),
    (UniformInit(-0.3, 0.1), lambda w: nn.init.uniform_(w, -0.3, 0.1)),
    (TruncNormalInit(), nn.init.trunc_normal_),
    (TruncNormalInit(0.01, 0.02, -0.03, 0.04), lambda w: nn.init.trunc_normal_(w, 0.01, 0.02, -0.03, 0.04)),
    (TruncNormalInit(std=0.02, cutoff=1.5), lambda w: nn.init.trunc_normal_(w, 0, 0.02, -0.03, 0.03)),
    (XavierInit(), nn.init.xavier_normal_),
    (XavierInit(2.5, "uniform"), lambda w: nn.init.xavier_uniform_(w, 2.5)),
    (KaimingInit(), lambda w: nn.init.kaiming_normal_(w, 0, "fan_out", "relu")),
    (
        KaimingInit(0.3, "fan_in", "leaky_relu", "uniform"),
        lambda w: nn.init.kaiming_uniform_(w, 0.3, "fan_in", "leaky_relu"),
    ),
    (KaimingInit(mode="fan_in", nonlinearity="selu"), lambda w: nn.init.kaiming_normal_(w, 0, "fan_in", "selu")),
    (
        Caffe2XavierInit(),
        lambda w: nn.init.kaiming_uniform_(w, 1, "fan_in", "leaky_relu"),
    ),
]


def drawn(initializer: LawInitializer) -> Tensor:
    tensor = torch.empty(SHAPE)
    initializer.write_(tensor, Stream(0, "w").generator)
    return tensor


@pytest.mark.parametrize(("initializer", "of_torch"), AS_TORCH)
def test_the_law_is_that_of_torch(initializer: LawInitializer, of_torch: Callable[[Tensor], Any]) -> None:
    law = initializer.expected(SHAPE)
    theirs = torch.empty(SHAPE)
    torch.manual_seed(0)
    of_torch(theirs)
    for tensor in (drawn(initializer), theirs):
        # No law here has a kurtosis above that of the normal one, so that its std is known to 1 / sqrt(2 n).
        assert tensor.mean().item() == pytest.approx(law.mean, abs=5 * law.std / math.sqrt(N) + 1e-7)
        assert tensor.std().item() == pytest.approx(law.std, rel=5 / math.sqrt(2 * N), abs=1e-7)
        assert law.low - 1e-7 <= tensor.min().item()
        assert tensor.max().item() <= law.high + 1e-7
    if law.std:
        assert stats.ks_2samp(drawn(initializer).flatten().numpy(), theirs.flatten().numpy()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("initializer", "law"),
    [
        (XavierInit(), NormalLaw(0, math.sqrt(2 / (864 + 1440)))),
        (XavierInit(2, "uniform"), UniformLaw(-2 * math.sqrt(6 / 2304), 2 * math.sqrt(6 / 2304))),
        (KaimingInit(), NormalLaw(0, math.sqrt(2 / 1440))),
        (KaimingInit(1, "fan_in", "leaky_relu"), NormalLaw(0, math.sqrt(1 / 864))),
        (Caffe2XavierInit(), UniformLaw(-math.sqrt(3 / 864), math.sqrt(3 / 864))),
    ],
)
def test_variances_follow_their_formulas(initializer: LawInitializer, law: Law) -> None:
    actual = initializer.expected(SHAPE)
    assert type(actual) is type(law)
    assert (actual.mean, actual.std) == pytest.approx((law.mean, law.std), rel=1e-14)
    assert (actual.low, actual.high) == pytest.approx((law.low, law.high), rel=1e-14)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (8, 2, 3, 5), (0, 4), (4, 0, 2), (1, 1, 1, 1, 7)])
def test_fans_are_those_of_torch(shape: tuple[int, ...]) -> None:
    fans = fans_of(shape)
    assert fans == nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))


@pytest.mark.parametrize("initializer", [XavierInit(), KaimingInit(), KaimingInit(mode="fan_in"), Caffe2XavierInit()])
class TestFans:
    @pytest.mark.parametrize("shape", [(), (7,)])
    def test_they_need_two_dimensions(self, initializer: LawInitializer, shape: tuple[int, ...]) -> None:
        tensor = torch.ones(shape)
        message = rf"fan_in and fan_out need at least two dimensions, and its shape is \({'7,' if shape else ''}\)"
        with pytest.raises(InitConfigError, match=message):
            initializer.write_(tensor, Stream(0, "w").generator)
        assert (tensor == 1).all()
        assert "Normal, Uniform or Constant" in str(initializer.obstacle(shape, torch.float32))

    @pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0), (3, 4, 0)])
    def test_none_of_them_has_to_be_there(self, initializer: LawInitializer, shape: tuple[int, ...]) -> None:
        initializer.write_(torch.empty(shape), Stream(0, "w").generator)


@pytest.mark.parametrize(
    ("initializer", "value"),
    [(NormalInit(3, 0), 3), (UniformInit(2, 2), 2), (XavierInit(gain=0), 0), (XavierInit(0, "uniform"), 0)],
)
def test_without_spread_it_is_a_constant(initializer: LawInitializer, value: float) -> None:
    assert initializer.expected((4, 4)) == ConstantLaw(value)


def test_cutoff_is_in_standard_deviations() -> None:
    law = TruncNormalInit(mean=1, std=0.5, cutoff=3).expected((2, 2))
    assert (law.low, law.high) == (-0.5, 2.5)


BAD: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("Constant", {"val": "1"}, {"val": "must be a number, got '1' (str)"}),
    ("Constant", {"val": True}, {"val": "must be a number, got True (bool)"}),
    ("Constant", {"val": math.nan}, {"val": "must be a finite number, got nan"}),
    ("Constant", {"val": 10**400}, {"val": f"must be a finite number, got {10**400}"}),
    ("Constant", {"val": 1, "bias": None}, {"bias": "must be a number, got None (NoneType)"}),
    ("Constant", {"val": 1, "bias": "0"}, {"bias": "must be a number, got '0' (str)"}),
    ("Constant", {"val": 1, "bias": False}, {"bias": "must be a number, got False (bool)"}),
    ("Constant", {"val": 1, "bias": math.inf}, {"bias": "must be a finite number, got inf"}),
    ("Constant", {"val": 1, "bias_prob": 1}, {"bias_prob": "must be a float between 0 and 1, got 1 (int)"}),
    ("Constant", {"val": 1, "bias_prob": "0.5"}, {"bias_prob": "must be a float between 0 and 1, got '0.5' (str)"}),
    ("Constant", {"val": 1, "bias_prob": 1.0}, {"bias_prob": "must lie between 0 and 1, both excluded, got 1.0"}),
    ("Constant", {"val": 1, "bias_prob": 0.0}, {"bias_prob": "must lie between 0 and 1, both excluded, got 0.0"}),
    ("Constant", {"val": 1, "bias_prob": math.nan}, {"bias_prob": "must lie between 0 and 1, both excluded, got nan"}),
    ("Constant", {"val": 1, "layer": 1}, {"layer": "must be a class name, a class or a list of them, got 1"}),
    ("Constant", {"val": 1, "layer": ["A", 2]}, {"layer[1]": "must be a class name or a module class, got 2"}),
    ("Normal", {"std": -1}, {"std": "must be >= 0, got -1"}),
    (
        "Normal",
        {"mean": "a", "std": -0.5, "bias": "b", "bias_prob": 2, "layer": 3},
        {
            "bias": "must be a number, got 'b' (str)",
            "bias_prob": "must be a float between 0 and 1, got 2 (int)",
            "layer": "must be a class name, a class or a list of them, got 3",
            "mean": "must be a number, got 'a' (str)",
            "std": "must be >= 0, got -0.5",
        },
    ),
    ("TruncNormal", {"std": 0}, {"std": "must be > 0, got 0"}),
    ("TruncNormal", {"a": 2}, {"a": "must be < b, got a=2 and b=2"}),
    ("TruncNormal", {"a": -math.inf}, {"a": "must be a finite number, got -inf"}),
    (
        "TruncNormal",
        {"a": "x", "b": 1j},
        {"a": "must be a number, got 'x' (str)", "b": "must be a number, got 1j (complex)"},
    ),
    ("TruncNormal", {"cutoff": 0}, {"cutoff": "must be > 0, got 0"}),
    ("TruncNormal", {"cutoff": "2"}, {"cutoff": "must be a number, got '2' (str)"}),
    (
        "TruncNormal",
        {"cutoff": 2, "b": 3},
        {"cutoff": "stands for the bounds `a` and `b`; give either the one or the others"},
    ),
    ("Uniform", {"a": 2}, {"a": "must be <= b, got a=2 and b=1"}),
    ("Uniform", {"a": None}, {"a": "must be a number, got None (NoneType)"}),
    ("Xavier", {"gain": -1}, {"gain": "must be >= 0, got -1"}),
    ("Xavier", {"distribution": "gauss"}, {"distribution": "must be one of 'normal', 'uniform', got 'gauss'"}),
    (
        "Kaiming",
        {"mode": "fan_on", "nonlinearity": "relu6", "distribution": None, "a": math.inf},
        {
            "a": "must be a finite number, got inf",
            "mode": "must be one of 'fan_in', 'fan_out', got 'fan_on'; did you mean 'fan_in' or 'fan_out'?",
            "nonlinearity": "must be one of 'linear', 'conv1d', 'conv2d', 'conv3d', 'conv_transpose1d', "
            "'conv_transpose2d', 'conv_transpose3d', 'sigmoid', 'tanh', 'relu', 'leaky_relu', 'selu', got 'relu6'; "
            "did you mean 'relu' or 'selu'?",
            "distribution": "must be one of 'normal', 'uniform', got None",
        },
    ),
    ("Kaiming", {"a": 1e200}, {"a": "must be the slope of a rectifier, got 1e+200"}),
    ("Caffe2Xavier", {"bias": []}, {"bias": "must be a number, got [] (list)"}),
]


@pytest.mark.parametrize(("name", "arguments", "faults"), BAD)
def test_bad_arguments_are_told_at_construction(name: str, arguments: dict[str, Any], faults: dict[str, str]) -> None:
    with pytest.raises(InitConfigError) as info:
        INITIALIZERS[name](**arguments)
    assert {fault.where: fault.what for fault in info.value.faults} == faults
    assert len(info.value.faults) == len(faults)


def test_a_bad_argument_raises_what_mmengine_raises() -> None:
    for kind in (TypeError, ValueError, RuntimeError, InitError):
        with pytest.raises(kind):
            ConstantInit(1, bias="1")  # type: ignore[arg-type]  # what is shown


def test_numbers_of_other_libraries() -> None:
    initializer = NormalInit(
        np.int64(2), cast("float", Fraction(1, 4)), bias=np.float32(0.5), bias_prob=np.float32(0.25)
    )
    assert initializer.describe() == "Normal(mean=2, std=0.25)"
    assert initializer.describe_bias() == "Normal(bias=-1.09861, bias_prob=0.25)"
    assert [type(value) for value in (initializer.mean, initializer.std, initializer.bias)] == [int, float, float]
    weight = torch.empty(4)
    initializer.write_(weight, Stream(0, "w").generator)
    assert weight.isfinite().all()


@pytest.mark.parametrize(
    ("initializer", "text", "bias"),
    [
        (ConstantInit(1), "Constant(val=1)", "Constant(bias=0)"),
        (ConstantInit(0.5, bias=2), "Constant(val=0.5)", "Constant(bias=2)"),
        (NormalInit(std=0.01, bias_prob=0.01), "Normal(mean=0, std=0.01)", "Normal(bias=-4.59512, bias_prob=0.01)"),
        (NormalInit(bias_prob=0.5), "Normal(mean=0, std=1)", "Normal(bias=0.0, bias_prob=0.5)"),
        (TruncNormalInit(), "TruncNormal(mean=0, std=1, a=-2, b=2)", "TruncNormal(bias=0)"),
        (TruncNormalInit(cutoff=3), "TruncNormal(mean=0, std=1, cutoff=3)", "TruncNormal(bias=0)"),
        (UniformInit(-1, 1), "Uniform(a=-1, b=1)", "Uniform(bias=0)"),
        (XavierInit(layer="Linear"), "Xavier(gain=1, distribution='normal')", "Xavier(bias=0)"),
        (
            KaimingInit(),
            "Kaiming(a=0, mode='fan_out', nonlinearity='relu', distribution='normal')",
            "Kaiming(bias=0)",
        ),
        (Caffe2XavierInit(), "Caffe2Xavier()", "Caffe2Xavier(bias=0)"),
    ],
)
def test_descriptions(initializer: LawInitializer, text: str, bias: str) -> None:
    assert initializer.describe() == text
    assert initializer.describe_bias() == bias


def test_bias_prob_wins_over_bias() -> None:
    initializer = ConstantInit(1, bias=7, bias_prob=0.1)
    assert initializer.bias_value == pytest.approx(-math.log(9))
    assert initializer.bias_law == ConstantLaw(initializer.bias_value)
    assert ConstantInit(1, bias_prob=5e-324).bias_value == pytest.approx(math.log(5e-324))


@pytest.mark.parametrize("initializer", [*(initializer for initializer, _ in AS_TORCH), KeepInit(layer=["Linear"])])
def test_they_are_values(initializer: LawInitializer) -> None:
    assert copy.deepcopy(initializer) == initializer
    assert pickle.loads(pickle.dumps(initializer)) == initializer  # noqa: S301  # made here
    with pytest.raises(FrozenInstanceError):
        initializer.layer = ()  # type: ignore[misc]  # what is shown


def test_layer_is_a_tuple_whatever_was_given() -> None:
    assert ConstantInit(1).layer == ()
    assert ConstantInit(1, layer=None).layer == ()  # type: ignore[arg-type]  # MMEngine's default
    assert ConstantInit(1, layer="Conv2d").layer == ("Conv2d",)
    assert ConstantInit(1, layer=["Conv2d", nn.Linear]).layer == ("Conv2d", nn.Linear)
    assert KeepInit(layer="Conv2d").layer == ("Conv2d",)
    with pytest.raises(InitConfigError, match="layer"):
        KeepInit(layer=4)  # type: ignore[arg-type]  # what is shown


def test_registered_names() -> None:
    names = ["Constant", "Xavier", "Normal", "TruncNormal", "Uniform", "Kaiming", "Caffe2Xavier", "Keep"]
    assert set(names) <= set(INITIALIZERS)
    assert all(INITIALIZERS[name].__name__ == f"{name}Init" for name in names)
    with pytest.raises(InitConfigError, match="taken by ConstantInit"):
        INITIALIZERS.register("Constant")(NormalInit)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.ModuleDict({"head": nn.Linear(8, 4)}))


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


class TestCall:
    def test_it_writes_weight_and_bias_of_the_layers_it_names(self) -> None:
        net = Net()
        before = values(net)
        ConstantInit(val=2, bias=3, layer=["Conv2d", "Linear"])(net)
        for name, value in values(net).items():
            written = 2 if name.endswith("weight") else 3
            expected = before[name] if name.startswith("norm") else torch.full_like(value, written)
            assert torch.equal(value, expected), name

    @pytest.mark.parametrize("layer", ["_ConvNd", "torch.nn.Conv2d", nn.Conv2d])
    def test_a_class_counts_for_those_derived_from_it(self, layer: str | type) -> None:
        class Own(nn.Conv2d):
            pass

        conv = Own(1, 1, 1)
        ConstantInit(val=2, layer=layer)(conv)
        assert conv.weight.item() == 2

    def test_through_apply(self) -> None:
        net = Net()
        net.apply(KaimingInit(layer="Conv2d", bias=1))
        assert net.conv.bias is not None
        assert torch.equal(net.conv.bias, torch.ones(8))
        bound = 5 / math.sqrt(2 * net.conv.weight.numel())
        assert net.conv.weight.std().item() == pytest.approx(math.sqrt(2 / 72), rel=bound)

    def test_two_calls_differ_and_a_seed_repeats_them(self) -> None:
        linear = nn.Linear(8, 8)
        initializer = NormalInit(layer="Linear")
        drawn = []
        for seed in (0, None, 0):
            if seed is not None:
                torch.manual_seed(seed)
            initializer(linear)
            drawn.append(linear.weight.detach().clone())
        assert not torch.equal(drawn[0], drawn[1])
        assert torch.equal(drawn[0], drawn[2])

    def test_without_layer_it_writes_nothing_and_says_so(self) -> None:
        linear = nn.Linear(2, 2)
        before = values(linear)
        with pytest.warns(InitWarning, match=r"ConstantInit without `layer` writes nothing; name classes") as record:
            ConstantInit(val=9)(linear)
        assert record[0].filename == __file__
        assert all(torch.equal(value, before[name]) for name, value in values(linear).items())

    def test_parameters_stay_parameters(self) -> None:
        linear = nn.Linear(2, 2)
        linear.weight.requires_grad = False
        weight = linear.weight
        NormalInit(layer="Linear")(linear)
        assert linear.weight is weight
        assert not weight.requires_grad
        assert linear.bias.requires_grad
        assert linear.bias.is_leaf

    def test_the_padding_row_of_an_embedding_stays_zero(self) -> None:
        embedding = nn.Embedding(5, 3, padding_idx=2)
        NormalInit(mean=4, std=0.1, layer="Embedding")(embedding)
        assert not embedding.weight[2].any()
        assert (embedding.weight[[0, 1, 3, 4]] > 2).all()

    def test_a_parametrized_weight_is_written_through(self) -> None:
        linear = parametrizations.weight_norm(nn.Linear(4, 3))
        ConstantInit(val=2, bias=1, layer="Linear")(linear)
        assert torch.allclose(linear.weight, torch.tensor(2.0))
        assert (linear.bias == 1).all()

    def test_missing_parameters_are_left_out(self) -> None:
        norm = nn.BatchNorm2d(2, affine=False)
        ConstantInit(val=1, layer=["BatchNorm2d", "ReLU"])(nn.Sequential(norm, nn.ReLU()))
        assert norm.weight is None


class TestWhatCannotBeWritten:
    def check(self, module: nn.Module, initializer: LawInitializer | TensorInitializer, *messages: str) -> None:
        before = {
            name: value.detach().clone()
            for name, value in module.state_dict().items()
            if not nn.parameter.is_lazy(value) and not value.is_meta
        }
        with pytest.raises(InitConfigError) as info:
            initializer(module)
        assert [str(fault) for fault in info.value.faults] == list(messages)
        after = module.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())

    def test_weights_without_fans(self) -> None:
        what = (
            "cannot be written: fan_in and fan_out need at least two dimensions, and its shape is ({},); initialise "
            "such weights with Normal, Uniform or Constant, and name in `layer` only classes whose weight is a matrix "
            "or a kernel"
        )
        net = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.ModuleList([nn.BatchNorm2d(3)]))
        messages = (f"1.weight: {what.format(2)}", f"2.0.weight: {what.format(3)}")
        self.check(net, XavierInit(layer=["Linear", "LayerNorm", "BatchNorm2d"]), *messages)

    def test_integers(self) -> None:
        linear = nn.Linear(2, 2)
        linear.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
        message = "random numbers cannot be written into torch.int8, only into a real floating point type"
        self.check(linear, NormalInit(layer="Linear"), f"weight: cannot be written: {message}")
        ConstantInit(val=3, layer="Linear")(linear)
        assert (linear.weight == 3).all()

    def test_a_bias_that_does_not_fit(self) -> None:
        message = "bias: cannot be written: 1000000.0 is too large for torch.float16 (up to 65504.0)"
        self.check(nn.Linear(2, 2).half(), NormalInit(bias=1e6, layer="Linear"), message)

    def test_a_parametrization_without_inverse(self) -> None:
        class Square(nn.Module):
            def forward(self, weight: Tensor) -> Tensor:
                return weight**2

        linear = nn.Linear(2, 2)
        parametrize.register_parametrization(linear, "weight", Square())
        before = values(linear)
        with pytest.raises(
            InitConfigError, match=r"^weight: cannot be written: its parametrization Square has no right"
        ):
            ConstantInit(val=1, layer="Linear")(linear)
        assert all(torch.equal(value, before[name]) for name, value in values(linear).items())

    def test_lazy_parameters(self) -> None:
        net = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3))
        what = "cannot be written: it has no shape yet; run the module once before"
        self.check(net, NormalInit(layer="Linear"), f"1.weight: {what}", f"1.bias: {what}")

    def test_meta_parameters(self) -> None:
        net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta", bias=False))
        what = "cannot be written: it is on the meta device and has no storage; materialise it before"
        self.check(net, ConstantInit(val=1, layer="Linear"), f"1.weight: {what}")


class TestOnesOwn:
    def test_a_law_initializer(self) -> None:
        @dataclass(frozen=True)
        class LeCunInit(LawInitializer):
            def law(self, shape: tuple[int, ...], fans: Fans | None) -> Law:
                assert fans is not None
                return NormalLaw(0, fans.fan_in**-0.5)

        linear = nn.Linear(400, 400)
        LeCunInit(layer="Linear", bias=1)(linear)
        assert linear.weight.std().item() == pytest.approx(0.05, rel=5 / math.sqrt(2 * 400**2))
        assert (linear.bias == 1).all()
        assert LeCunInit().describe() == "LeCunInit()"

    def test_a_tensor_initializer(self) -> None:
        @dataclass(frozen=True)
        class OrthogonalInit(TensorInitializer):
            gain: float = 1

            def fill(self, tensor: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:
                assert fans == Fans(8, 8)
                nn.init.orthogonal_(tensor, self.gain, generator=generator)

        initializer = OrthogonalInit(2, layer="Linear")
        linear = nn.Linear(8, 8, bias=False)
        initializer(linear)
        weight = linear.weight.detach()
        assert torch.allclose(weight @ weight.T, 4 * torch.eye(8), atol=1e-5)
        assert initializer.expected((8, 8)) is None
        assert initializer.obstacle((8, 8), torch.bfloat16) is None
        assert "real floating point" in str(initializer.obstacle((8, 8), torch.int32))
        torch.manual_seed(0)
        initializer(linear)
        torch.manual_seed(0)
        assert torch.equal(nn.init.orthogonal_(torch.empty(8, 8), 2), linear.weight)
