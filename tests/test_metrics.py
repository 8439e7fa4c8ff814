"""Statistics compared with NumPy's on float64 copies of the same values, and the life of the metric around them."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from lightning_init.errors import InitError
from lightning_init.metrics import WeightStatistics
from lightning_init.moments import (
    STATISTICS,
    Moments,
    merge,
    moments,
    moments_of_all,
    statistics,
    statistics_of,
)
from tests.models import threads

CHUNK = 2**18
EXACT = ("min", "max", "zero_fraction", "nonfinite")
FLOATS = (
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
)
INTEGERS = (
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.bool,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator(device="cpu").manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64, device="cpu").to(dtype)


def reference(tensor: Tensor) -> dict[str, float]:
    """NumPy's answer on a float64 copy."""
    wide = tensor.detach().to(torch.complex128 if tensor.is_complex() else torch.float64).resolve_conj().numpy()
    x = (np.abs(wide) if tensor.is_complex() else wide).ravel()
    if not x.size:
        return {**dict.fromkeys(STATISTICS, math.nan), "l2_norm": 0.0, "nonfinite": 0.0}
    with np.errstate(all="ignore"):
        values = (
            x.mean(),
            x.std(ddof=1) if x.size > 1 else math.nan,
            x.min(),
            x.max(),
            np.abs(x).mean(),
            np.sqrt(np.square(x).sum()),
            np.mean(x == 0),
            np.count_nonzero(~np.isfinite(x)),
        )
    return dict(zip(STATISTICS, map(float, values), strict=True))


def assert_same(got: dict[str, float], want: dict[str, float], n: int) -> None:
    """Equality of what is exact; for sums of n numbers, round-off that grows as the square root of n (at least 1024).

    A sum can cancel, so the tolerance of the mean is relative to the mean of magnitudes, that of the standard deviation
    to itself and to the round-off of the mean.
    """
    assert tuple(got) == STATISTICS
    rtol = float(np.finfo(np.float64).eps) * math.sqrt(max(n, 1024))
    spread = want["abs_mean"] if math.isfinite(want["abs_mean"]) else 0.0
    for name in STATISTICS:
        if name in EXACT:
            assert got[name] == want[name] or (math.isnan(got[name]) and math.isnan(want[name])), name
        else:
            allowed = rtol * spread if name in ("mean", "std") else 0.0
            assert got[name] == pytest.approx(want[name], rel=rtol, abs=allowed, nan_ok=True), name


def check(tensor: Tensor) -> None:
    assert_same(statistics_of(tensor), reference(tensor), tensor.numel())


def bits(tensor: Tensor) -> bytes:
    data: bytes = tensor.detach().resolve_conj().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return data


# Values


def test_the_names_and_their_order() -> None:
    assert STATISTICS == ("mean", "std", "min", "max", "abs_mean", "l2_norm", "zero_fraction", "nonfinite")


def test_numbers_that_can_be_checked_by_hand() -> None:
    assert statistics_of(torch.tensor([[-3.0, 0.0], [4.0, -1.0]])) == {
        "mean": 0.0,
        "std": math.sqrt(26 / 3),
        "min": -3.0,
        "max": 4.0,
        "abs_mean": 2.0,
        "l2_norm": math.sqrt(26),
        "zero_fraction": 0.25,
        "nonfinite": 0.0,
    }


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("n", [1, 2, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 12345])
def test_floats(dtype: torch.dtype, n: int) -> None:
    check((normal(n) * 2).to(dtype))


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_and_booleans(dtype: torch.dtype) -> None:
    check(torch.randint(0, 120, (CHUNK + 77,), generator=generator(), device="cpu").to(dtype))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32])
def test_the_ends_of_an_integer_type(dtype: torch.dtype) -> None:
    info = torch.iinfo(dtype)
    got = statistics_of(torch.tensor([info.min, info.max], dtype=dtype))
    assert (got["min"], got["max"], got["mean"]) == (info.min, info.max, -0.5)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("conjugate", [False, True])
def test_complex_numbers_are_measured_by_magnitude(dtype: torch.dtype, *, conjugate: bool) -> None:
    z = torch.complex(normal(CHUNK + 5), normal(CHUNK + 5, seed=1)).to(dtype)
    z[:3] = 0
    got, want = statistics_of(z.conj() if conjugate else z), reference(z)
    # Two libraries may round a magnitude differently in its last bit.
    assert (got["min"], got["max"]) == pytest.approx((want["min"], want["max"]), rel=2**-52)
    assert_same({**got, "min": want["min"], "max": want["max"]}, want, z.numel())
    assert statistics_of(torch.tensor([3 + 4j, -3 - 4j], dtype=dtype))["mean"] == 5.0


def test_half_precision_complex_numbers() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls the type experimental when one is made
        z = torch.tensor([3 + 4j, 0j]).to(torch.complex32)
    got = statistics_of(z)
    assert (got["max"], got["zero_fraction"]) == (5.0, 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("n", [1000, 3 * CHUNK + 1])
def test_a_large_mean_does_not_drown_a_small_std(dtype: torch.dtype, n: int) -> None:
    x = (normal(n) * 1e-2 + 1e4).to(dtype)
    check(x)
    if dtype is torch.float32:
        # Not the artefact of a reference that is wrong in the same way: 1e-2, but for rounding to a step of 2**-10.
        assert statistics_of(x)["std"] == pytest.approx(math.hypot(1e-2, 2**-10 / math.sqrt(12)), rel=4 / math.sqrt(n))


def test_a_mean_that_drifts_from_chunk_to_chunk() -> None:
    check(normal(4 * CHUNK + 9) * 1e-3 + torch.linspace(-5, 1e4, 4 * CHUNK + 9, dtype=torch.float64))


def test_a_constant_has_no_spread() -> None:
    got = statistics_of(torch.full((2 * CHUNK + 3,), 0.5))
    assert (got["mean"], got["std"], got["min"], got["max"], got["abs_mean"]) == (0.5, 0.0, 0.5, 0.5, 0.5)


SPECIAL = (0.0, -0.0, 1.5, -2.0, math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_nan_inf_and_zero_in_every_combination(dtype: torch.dtype, size: int) -> None:
    for values in itertools.product(SPECIAL, repeat=size):
        check(torch.tensor(values, dtype=torch.float64).to(dtype))


@pytest.mark.parametrize("place", [0, CHUNK - 1, CHUNK, 2 * CHUNK + 99])
@pytest.mark.parametrize(
    "values", [(math.nan,), (math.inf,), (-math.inf,), (math.inf, -math.inf), (math.nan, math.inf)]
)
def test_one_bad_element_in_any_chunk(place: int, values: tuple[float, ...]) -> None:
    x = normal(2 * CHUNK + 100, dtype=torch.float32)
    x[place] = values[0]
    x[CHUNK + 7] = values[-1]
    check(x)
    assert statistics_of(x)["nonfinite"] == 2


def test_infinity_in_every_chunk_leaves_the_mean_infinite() -> None:
    got = statistics_of(torch.full((2 * CHUNK,), math.inf))
    assert (got["mean"], got["l2_norm"], got["nonfinite"]) == (math.inf, math.inf, 2 * CHUNK)
    assert math.isnan(got["std"])


def test_finite_numbers_whose_squares_overflow_are_finite_numbers() -> None:
    got = statistics_of(torch.tensor([1e200, -1e200], dtype=torch.float64))
    assert (got["nonfinite"], got["max"], got["l2_norm"]) == (0.0, 1e200, math.inf)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, torch.complex64], ids=str)
@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
def test_empty(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.empty(shape, dtype=dtype)
    check(tensor)
    assert moments(tensor).count == 0


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_one_element(shape: tuple[int, ...]) -> None:
    got = statistics_of(torch.full(shape, -2.5))
    assert math.isnan(got.pop("std"))
    assert got == {
        "mean": -2.5,
        "min": -2.5,
        "max": -2.5,
        "abs_mean": 2.5,
        "l2_norm": 2.5,
        "zero_fraction": 0.0,
        "nonfinite": 0.0,
    }


# Strides, memory, and the input


VIEWS: dict[str, Callable[[], Tensor]] = {
    "transposed": lambda: normal(700, 900).t(),
    "channels_last": lambda: normal(8, 64, 40, 40).to(memory_format=torch.channels_last),
    "permuted": lambda: normal(30, 40, 50, 20).permute(2, 0, 3, 1),
    "every_second": lambda: normal(3 * CHUNK)[::2],
    "columns": lambda: normal(5000, 200)[:, 10:170],
    "one_long_row": lambda: normal(2, 2, 2 * CHUNK)[:, 0, ::2],
    "many_short_dimensions": lambda: normal(*[3] * 13)[..., :2],
    "broadcast": lambda: normal(1, 500).expand(3000, 500),
    "all_one_number": lambda: torch.tensor(3.0).expand(4 * CHUNK),
    "offset": lambda: normal(CHUNK + 100)[50:],
}


@pytest.mark.parametrize("view", VIEWS)
def test_strided_tensors(view: str) -> None:
    check(VIEWS[view]())


class MemoryWatch(TorchDispatchMode):
    """The largest storage, in bytes, that any operation returned other than the given one."""

    def __init__(self, known: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch left it without types
        self.known = known.untyped_storage().data_ptr()
        self.largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() != self.known:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("layout", ["flat", "transposed", "strided", "broadcast", "nonfinite"])
def test_no_copy_of_a_whole_tensor(dtype: torch.dtype, layout: str) -> None:
    x = torch.ones(64, CHUNK, dtype=dtype)
    if layout == "nonfinite":
        x[-1, -1] = math.nan
    view = {"transposed": x.t(), "strided": x[:, ::2], "broadcast": x[:1].expand(64, CHUNK)}.get(layout, x)
    # Only what this thread does is seen.
    with threads(1), MemoryWatch(x) as watch:
        moments(view)
    # The two work areas, each of a chunk of float64: a sixteenth of the input at most.
    assert 0 < watch.largest <= 2 * CHUNK * 8


def test_the_number_of_threads_does_not_count() -> None:
    tensors = {"long": normal(50 * CHUNK + 5, dtype=torch.float32), "short": normal(3), "wide": normal(100, 10_000).t()}
    found = []
    for count in (1, 2, 5):
        with threads(count):
            found.append(moments_of_all(tensors))
    assert found[0] == found[1] == found[2]
    for name, tensor in tensors.items():
        assert_same(statistics(found[0][name]), reference(tensor), tensor.numel())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float8_e5m2, torch.complex128])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_input_is_not_written(dtype: torch.dtype, *, transposed: bool) -> None:
    x = normal(600, 500).to(dtype)
    x[0, 0] = math.nan
    x[1, 1] = -0.0
    before, version = bits(x), x._version
    metric = WeightStatistics()
    metric.update({"x": x.t() if transposed else x})
    metric({"x": x})
    metric.compute()
    assert bits(x) == before
    assert x._version == version


def test_parameters_get_no_gradient_and_no_graph() -> None:
    layer = nn.Linear(3, 2)
    metric = WeightStatistics()
    with torch.enable_grad():
        metric.update(dict(layer.named_parameters()))
        metric(dict(layer.named_parameters()))
    assert all(p.requires_grad and p.grad is None and p.is_leaf for p in layer.parameters())
    hidden = layer(torch.ones(1, 3))  # not a leaf, and with a graph of its own
    check(hidden)


def test_inference_tensors() -> None:
    with torch.inference_mode():
        x = torch.arange(4.0)
        check(x)
    check(x)


@pytest.fixture
def strange_defaults() -> Iterator[None]:
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("strange_defaults")
def test_default_dtype_and_device_do_not_matter() -> None:
    x = normal(CHUNK + 3, dtype=torch.float32)
    check(x)
    x[5] = math.nan
    check(x)
    metric = WeightStatistics()
    metric.update({"x": x})
    assert metric.compute()["x"]["nonfinite"] == 1


# Merging


@pytest.mark.parametrize("cuts", [(0, 10, 1000), (1, 2, 3), (500, 500, 999), (0, 0, 0)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_parts_merge_to_the_whole(cuts: tuple[int, ...], offset: float) -> None:
    x = normal(1000) + offset
    parts = torch.tensor_split(x, cuts)
    merged = Moments()
    for part in parts:
        merged = merge(merged, moments(part))
    assert merged.count == 1000
    assert_same(statistics(merged), reference(x), 1000)


def test_merging_with_nothing_changes_nothing() -> None:
    some = moments(torch.tensor([1.0, math.nan]))
    for merged in (merge(some, Moments()), merge(Moments(), some)):
        assert repr(merged) == repr(some)  # equality fails for NaN
    assert repr(merge(Moments(), Moments())) == repr(Moments())


@pytest.mark.parametrize("pair", list(itertools.product(SPECIAL, repeat=2)), ids=str)
def test_merging_special_values(pair: tuple[float, float]) -> None:
    a, b = (torch.tensor([value, 1.0]) for value in pair)
    assert_same(statistics(merge(moments(a), moments(b))), reference(torch.cat([a, b])), 4)


# What cannot be measured


def unreadable() -> dict[str, tuple[object, str]]:
    return {
        "no_tensor": ([1.0], "is not a tensor but of type list"),
        "lazy": (nn.LazyLinear(3).weight, "lazy"),
        "meta": (torch.empty(3, device="meta"), "meta"),
        "sparse": (torch.eye(3).to_sparse(), r"to_dense\(\)"),
        "packed": (torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "float4_e2m1fn_x2"),
    }


@pytest.mark.parametrize("kind", unreadable())
def test_what_has_no_values_is_an_error(kind: str) -> None:
    tensor, message = unreadable()[kind]
    with pytest.raises(InitError, match=message):
        statistics_of(tensor)  # type: ignore[arg-type]  # a wrong argument is the point


def test_all_bad_tensors_are_named_and_none_is_added() -> None:
    metric = WeightStatistics()
    metric.update({"a": torch.ones(2)})
    bad: dict[str, Any] = {"a": torch.ones(2), "b": torch.ones(2, device="meta"), "c": 3.0}
    with pytest.raises(InitError) as raised:
        metric.update(bad)
    assert [fault.where for fault in raised.value.faults] == ["b", "c"]
    assert metric.compute() == {"a": statistics_of(torch.ones(2))}


def test_pairs_instead_of_a_mapping() -> None:
    pairs: Any = nn.Linear(2, 2).named_parameters()
    with pytest.raises(InitError, match="a mapping of names to tensors, got generator"):
        WeightStatistics().update(pairs)


@pytest.fixture
def lonely_process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.mark.usefixtures("lonely_process_group")
def test_a_sharded_tensor_is_refused_and_its_parts_are_not() -> None:
    tensor_module = pytest.importorskip("torch.distributed.tensor")
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    sharded = tensor_module.distribute_tensor(torch.arange(6.0), mesh, [tensor_module.Shard(0)])
    with pytest.raises(InitError, match=r"DTensor.*full_tensor\(\)"):
        statistics_of(sharded)
    check(sharded.to_local())
    check(sharded.full_tensor())


# The metric


def filled(seed: int = 0) -> tuple[WeightStatistics, dict[str, Tensor]]:
    tensors = {"head.weight": normal(4, 5, seed=seed), "head.bias": torch.zeros(4), "scale": torch.tensor(2.0)}
    metric = WeightStatistics()
    metric.update(tensors)
    return metric, tensors


def assert_measures(metric: WeightStatistics, tensors: dict[str, Tensor]) -> None:
    got = metric.compute()
    assert list(got) == list(tensors)
    for name, tensor in tensors.items():
        assert_same(got[name], reference(tensor), tensor.numel())
        assert {type(value) for value in got[name].values()} == {float}


def test_update_and_compute() -> None:
    assert_measures(*filled())


def test_a_name_that_comes_again_adds_elements() -> None:
    metric, tensors = filled()
    more = {"extra": torch.ones(2), "head.weight": normal(300, seed=5) + 7}
    metric.update(more)
    whole = torch.cat([tensors["head.weight"].flatten(), more["head.weight"]])
    assert_measures(metric, {**tensors, "head.weight": whole, "extra": more["extra"]})
    assert len(metric.records) == 4


def test_results_are_the_readers_own() -> None:
    metric, tensors = filled()
    metric.compute()["scale"]["mean"] = 99.0
    assert_measures(metric, tensors)


def test_reset() -> None:
    metric, _ = filled()
    metric.reset()
    metric.update({"b": torch.ones(3)})
    assert_measures(metric, {"b": torch.ones(3)})


def test_before_any_update_there_is_nothing() -> None:
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert WeightStatistics().compute() == {}
    metric = WeightStatistics()
    metric.update({})
    assert metric.compute() == {}


def test_forward_measures_the_batch_and_adds_it() -> None:
    metric, tensors = filled()
    batch = {"scale": torch.tensor([5.0, 6.0])}
    value = metric(batch)
    assert list(value) == ["scale"]
    assert_same(value["scale"], reference(batch["scale"]), 2)
    whole = torch.cat([tensors["scale"].view(1), batch["scale"]])
    assert_measures(metric, {**tensors, "scale": whole})
    metric.update({})
    assert len(metric.records) == 3


COPIES: dict[str, Callable[[WeightStatistics], WeightStatistics]] = {
    "pickle": lambda metric: pickle.loads(pickle.dumps(metric)),  # noqa: S301  # bytes made right here
    "deepcopy": copy.deepcopy,
    "clone": lambda metric: cast("WeightStatistics", metric.clone()),
}


@pytest.mark.parametrize("how", COPIES)
def test_copies_are_equal_and_independent(how: str) -> None:
    metric, tensors = filled()
    other = COPIES[how](metric)
    assert_measures(other, tensors)
    other.update({"scale": torch.tensor(9.0)})
    metric.reset()
    metric.update(tensors)
    assert_measures(metric, tensors)
    assert other.compute()["scale"]["max"] == 9.0


@pytest.mark.parametrize(
    "move",
    [
        lambda module: module.to("cpu"),
        lambda module: module.to(torch.bfloat16),
        lambda module: module.half(),
        lambda module: module.to("meta"),
    ],
)
def test_moves_and_casts_leave_the_numbers(move: Callable[[nn.Module], nn.Module]) -> None:
    metric, tensors = filled()
    assert_measures(move(nn.ModuleList([metric]))[0], tensors)  # type: ignore[index]  # a ModuleList comes back
    metric.set_dtype(torch.bfloat16)
    assert_measures(metric, tensors)


def test_state_dict_is_empty_by_default_and_whole_when_persistent(tmp_path: Path) -> None:
    metric, tensors = filled()
    model = nn.ModuleDict({"layer": nn.Linear(1, 1), "stats": metric})
    assert set(model.state_dict()) == {"layer.weight", "layer.bias"}
    metric.persistent(mode=True)
    path = tmp_path / "state.pt"
    torch.save(model.state_dict(), path)
    fresh = WeightStatistics()
    other = nn.ModuleDict({"layer": nn.Linear(1, 1), "stats": fresh})
    other.load_state_dict(torch.load(path, weights_only=True))
    fresh.update({})
    assert_measures(fresh, tensors)


@pytest.mark.skipif(not hasattr(WeightStatistics, "merge_state"), reason="this torchmetrics has no merge_state")
def test_merge_state() -> None:
    first, second = WeightStatistics(), WeightStatistics()
    first.update({"a": torch.tensor([1.0, 2.0]), "b": torch.ones(1)})
    second.update({"a": torch.tensor([5.0]), "c": torch.zeros(2)})
    first.merge_state(second)
    got = first.compute()
    assert_same(got["a"], reference(torch.tensor([1.0, 2.0, 5.0])), 3)
    assert set(got) == {"a", "b", "c"}
    assert second.compute()["a"]["mean"] == 5.0


@pytest.mark.usefixtures("lonely_process_group")
def test_a_process_group_changes_nothing() -> None:
    metric, tensors = filled()
    assert_measures(metric, tensors)
    metric.sync()
    assert_measures(metric, tensors)
    metric.update(tensors)
    assert_measures(metric, {name: torch.stack([tensor, tensor]) for name, tensor in tensors.items()})


class Measured(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.stats = WeightStatistics()
        self.seen: dict[str, dict[str, float]] = {}

    def on_train_start(self) -> None:
        self.stats.update(dict(self.layer.named_parameters()))
        self.seen = {name: reference(tensor) for name, tensor in self.layer.named_parameters()}

    def training_step(self, batch: Tensor, _: int) -> Tensor:
        loss: Tensor = self.layer(batch).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[Any]:
        data: Any = torch.ones(8, 4)
        return DataLoader(data, batch_size=4)


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings(r"ignore:.*LeafSpec.* is deprecated:FutureWarning")  # Lightning 2.6 with torch 2.13
def test_inside_a_lightning_module(precision: Any, tmp_path: Path) -> None:
    module = Measured()
    trainer = lightning.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        devices=1,
        max_steps=2,
        precision=precision,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module)
    got = module.stats.compute()
    assert set(got) == {"weight", "bias"}
    for name in got:
        assert_same(got[name], module.seen[name], 8)
    Measured.load_from_checkpoint(trainer.checkpoint_callback.best_model_path)  # type: ignore[union-attr]  # enabled


def test_the_number_of_threads_that_is_asked_for_does_not_count() -> None:
    for tensors in (
        {"a": torch.randn(3_000_000), "b": torch.randn(500_000).bfloat16()},
        {"single": torch.randn(10**5)},
    ):
        one, *others = (moments_of_all(tensors, threads) for threads in (1, 2, 5, None))
        assert all(found == one for found in others)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_a_number_of_threads_is_one(threads: Any) -> None:
    with pytest.raises(InitError, match=r"^threads: must be an integer from 1 on or None"):
        moments_of_all({"x": torch.ones(3)}, threads)
