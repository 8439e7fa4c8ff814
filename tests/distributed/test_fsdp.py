"""The callback under ``FSDPStrategy`` (FSDP1), on CPUs."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision
from torch.distributed.fsdp.wrap import wrap
from torch.profiler import ProfilerActivity, profile

from lightning_init import InitWeightsCallback, skip_default_init
from lightning_init.digests import digest
from tests.distributed.harness import run_ranks
from tests.distributed.models import LitNet, Tail, Told, loader, rules, told, trainer
from tests.distributed.writers import CpuFSDP

SEED = 7


class FlatNet(LitNet):
    """`LitNet` with a buffer that no rule fills, and a layer whose weight is that of another one.

    Args:
        init_cfg: Its config.
        on_meta: It is built without storage.
        left_out: It is built without the numbers of its constructors.
        wraps: The layers that it wraps on its own.
        lr: The rate that it learns at.
    """

    def __init__(
        self,
        init_cfg: Any = None,
        *,
        on_meta: bool = False,
        left_out: bool = False,
        wraps: tuple[str, ...] = (),
        lr: float = 0.0,
    ) -> None:
        with torch.device("meta" if on_meta else "cpu"), skip_default_init() if left_out else nullcontext():
            super().__init__(init_cfg)
            self.norm = nn.BatchNorm1d(6)
            self.twin = nn.Linear(24, 6, bias=False)
        self.twin.weight = self.head.weight
        self.wraps = wraps
        self.lr = lr

    def configure_model(self) -> None:
        for name in self.wraps:
            setattr(self, name, wrap(getattr(self, name)))

    def forward(self, batch: Tensor) -> Tensor:
        out: Tensor = self.norm(super().forward(batch).repeat(1, 3))
        return out

    def configure_optimizers(self) -> torch.optim.Optimizer:
        assert self.trainer.model is not None
        return torch.optim.SGD(self.trainer.model.parameters(), lr=self.lr, momentum=0.9)


def whole(module: nn.Module) -> dict[str, str]:
    """The bits of all parameters and buffers, put together."""
    with FullyShardedDataParallel.summon_full_params(module, writeback=False):
        held = [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]
        return {name.replace("_fsdp_wrapped_module.", ""): digest([tensor]) for name, tensor in held}


class Seen(Callback):
    """The weights at the start of training."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.weights = whole(trainer.strategy.model)


def run(
    module: FlatNet, strategy: Any, ckpt_path: Path | None = None, **rest: Any
) -> tuple[dict[str, str], InitWeightsCallback, Any]:
    seen, callback = Seen(), InitWeightsCallback(seed=SEED, log=())
    devices = 1 if strategy == "auto" else 2
    made = trainer(strategy=strategy, devices=devices, callbacks=[seen, callback], **rest)
    made.fit(module, loader(), ckpt_path=ckpt_path)
    return seen.weights, callback, made


Fitted = tuple[dict[str, str], dict[str, list[float]], str]


def fitted(strategy: Any, **arguments: Any) -> Fitted:
    torch.manual_seed(3)
    weights, callback, made = run(FlatNet(rules(), **arguments), strategy)
    assert not isinstance(made.strategy, CpuFSDP) or made.strategy.kwargs.keys() <= {"use_orig_params", *UNITS}
    assert callback.report is not None
    measured = {row.name: list((row.statistics or {}).values()) for row in callback.report}
    rows = [(row.name, row.aliases, row.shape, row.source, row.differs_on) for row in callback.report]
    return weights, measured, str(rows)


UNITS: dict[str, Any] = {"auto_wrap_policy": {nn.Conv1d, Tail}}
ORIGINALS: dict[str, Any] = {"use_orig_params": False}
WRAPS: dict[str, Any] = {"wraps": ("conv", "noisy", "tail")}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one unit": ({}, {}),
    "units of flat parameters": ({**ORIGINALS, **UNITS}, {}),
    "replicated": ({"sharding_strategy": "NO_SHARD", **UNITS}, {}),
    "mixed": ({"mixed_precision": MixedPrecision(param_dtype=torch.bfloat16), **UNITS}, {}),
    "wrapped before": ({}, WRAPS),
    "wrapped before, flat parameters": (ORIGINALS, WRAPS),
    "on meta": (UNITS, {"on_meta": True}),
    "on meta, one unit": ({"sharding_strategy": "SHARD_GRAD_OP"}, {"on_meta": True}),
    "on meta, flat parameters": ({**ORIGINALS, **UNITS}, {"on_meta": True}),
    "on meta, wrapped before": ({}, {"on_meta": True, **WRAPS}),
    "as on meta, left out": (UNITS, {"left_out": True}),
    "as on meta, left out and wrapped before": (ORIGINALS, {"left_out": True, **WRAPS}),
}


def of_lives(folder: Path) -> dict[bool, Any]:
    """A run that is saved and resumed, new runs without their checkpoint, and a module that has been trained."""
    kept = {}
    for on_meta in (False, True):
        module = FlatNet(on_meta=on_meta, lr=0.1)
        _, _, made = run(module, CpuFSDP(state_dict_type="sharded", **UNITS))
        trained, path = whole(made.strategy.model), folder / f"{on_meta}.ckpt"
        made.save_checkpoint(path)
        gone = FlatNet([*rules(), missing(folder)], on_meta=on_meta, lr=0.1)
        weights, callback, _ = run(gone, CpuFSDP(state_dict_type="sharded", **UNITS), path, max_steps=2)
        kept[on_meta] = (trained == weights, callback.report, gone.is_init)
    return kept


def missing(folder: Path) -> dict[str, Any]:
    return {"type": "Pretrained", "checkpoint": str(folder / "gone.pth")}


def blank(module: nn.Module) -> None:
    module.to_empty(device="cpu", recurse=False)


def on_meta(strategy: dict[str, Any], module: FlatNet | None = None) -> dict[str, str]:
    module = module or FlatNet(on_meta=True)
    return run(module, CpuFSDP(**{**UNITS, **strategy}))[0]


def of_meta(folder: Path) -> dict[str, Any]:
    """Models on ``meta`` that somebody else has a part in."""
    rank = torch.distributed.get_rank()
    first, second, third = (FlatNet(on_meta=True) for _ in range(3))
    some = ("plain.weight", "plain.bias", "norm.weight")
    ignored = {"param_init_fn": blank, "ignored_modules": [second.plain, second.norm]}
    values = torch.load(folder / "all.pth")
    values["twin.weight"] = values["head.weight"]
    return {
        "a user's function": on_meta({"param_init_fn": blank}),
        # An iterator.
        "ignored": on_meta({"ignored_modules": iter([first.plain, first.norm])}, first),
        "ignored parameters": on_meta({"ignored_states": map(third.get_parameter, some)}, third),
        "still ignored": [tuple(third.get_parameter(name).shape) for name in some],
        "of one rank": told(lambda: on_meta({}, FlatNet(on_meta=rank == 1))),
        "left out on one rank": told(lambda: on_meta({}, FlatNet(left_out=rank == 1))),
        "unset": told(lambda: on_meta({}, FlatNet(rules()[:2], on_meta=True))),
        "ignored, a user's function": told(lambda: on_meta(ignored, second)),
        "tied": told(lambda: on_meta({"auto_wrap_policy": {nn.Linear}})),
        "no file": told(lambda: on_meta({}, FlatNet([*rules(), missing(folder)], on_meta=True))),
        "no file, eager": told(lambda: run(FlatNet([missing(folder)]), CpuFSDP())),
        "loaded": on_meta({}, FlatNet({"type": "Pretrained", "checkpoint": str(folder / "all.pth")}, on_meta=True)),
        "file": {name: digest([value]) for name, value in values.items()},
    }


def of_all(folder: Path) -> dict[str, Any]:
    return {
        "cases": {name: fitted(CpuFSDP(**strategy), **module) for name, (strategy, module) in CASES.items()},
        "lives": of_lives(folder),
        "meta": of_meta(folder),
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two ranks saw."""
    folder = tmp_path_factory.mktemp("fsdp")
    torch.manual_seed(5)
    torch.save({name: torch.randn(held.shape) for name, held in FlatNet().named_parameters()}, folder / "all.pth")
    return run_ranks(2, of_all, folder, process_group=False, deadline=120)


@pytest.fixture(scope="module")
def alone() -> dict[bool, Fitted]:
    """What a single process saw, of a model that was built on ``meta`` or not."""
    return {on_meta: fitted("auto", on_meta=on_meta) for on_meta in (False, True)}


def test_the_weights_and_the_report_of_a_single_process(found: list[dict[str, Any]], alone: dict[bool, Fitted]) -> None:
    for of_rank in found:
        for case, (weights, measured, report) in of_rank["cases"].items():
            same_weights, same_measured, same_report = alone["meta" in case]
            assert weights == same_weights, case
            assert report == same_report, case
            for name, values in measured.items():
                assert values == pytest.approx(same_measured[name], rel=1e-9, nan_ok=True), (case, name)


def test_a_resumed_run_keeps_its_weights_even_if_a_checkpoint_is_gone(found: list[dict[str, Any]]) -> None:
    for of_rank in found:
        assert of_rank["lives"] == dict.fromkeys((False, True), (True, None, True))


def test_what_was_on_meta(found: list[dict[str, Any]], alone: dict[bool, Fitted]) -> None:
    weights, *_ = alone[True]
    ruled = {"token", "conv.weight", "head.weight", "head.bias", "noisy.noise", "tail.fc.weight", "tail.fc.bias"}
    buffers = {name for name in weights if name.startswith("norm.") and name not in ("norm.weight", "norm.bias")}
    for of_rank in found:
        meta = of_rank["meta"]
        assert {name: meta["a user's function"][name] for name in ruled} == {name: weights[name] for name in ruled}
        assert meta["ignored"] == meta["ignored parameters"] == weights
        assert meta["still ignored"] == [(2, 2), (2,), (6,)]
        assert meta["loaded"] == meta["file"] | {name: weights[name] for name in buffers}


def test_what_would_stay_unset_is_an_error(found: list[dict[str, Any]]) -> None:
    for of_rank in found:
        errors = {case: (it.error, it.message) for case, it in of_rank["meta"].items() if isinstance(it, Told)}
        without_file = ("no file", "no file, eager")
        assert errors.keys() == {
            "of one rank",
            "left out on one rank",
            "unset",
            "ignored, a user's function",
            "tied",
            *without_file,
        }
        assert errors["left out on one rank"][0] == "RankError"
        assert "plain.weight (rank 1 against rank 0)" in errors["left out on one rank"][1]
        assert errors["unset"][0] == "InitConfigError"
        assert errors["unset"][1].startswith("token: ")
        assert "no rule and no reset_parameters would set it" in errors["unset"][1]
        assert "some ranks have built on the meta device" in errors["of one rank"][1]
        told = errors["ignored, a user's function"][1]
        assert "plain.bias: is on the meta device although FSDP has wrapped the model" in told
        assert "conv.weight" not in told
        assert "tied to a parameter of another FSDP unit" in errors["tied"][1]
        for case in without_file:
            assert errors[case][0] == "CheckpointError"
            assert "gone.pth" in errors[case][1]


class Wide(nn.Linear):
    """A unit of a megabyte."""

    def __init__(self) -> None:
        super().__init__(512, 512, bias=False)


class Deep(FlatNet):
    """Units of a megabyte each, on ``meta``."""

    def __init__(self) -> None:
        super().__init__([*rules(), {"type": "Normal", "name": "deep"}], on_meta=True)
        with torch.device("meta"):
            self.deep = nn.ModuleList(Wide() for _ in range(16))


class Peak(Callback):
    """The most memory that was taken at once between the start of a fit and that of training, in megabytes."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self.profile.start()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.profile.stop()
        taken = peak = 0
        for event in sorted(self.profile.events(), key=lambda event: event.time_range.start):
            taken += event.self_cpu_memory_usage
            peak = max(peak, taken)
        self.megabytes = peak / 2**20


def of_memory() -> float:
    peak = Peak()
    strategy = CpuFSDP(auto_wrap_policy={Wide})
    made = trainer(strategy=strategy, devices=2, callbacks=[InitWeightsCallback(seed=SEED, log=()), peak])
    made.fit(Deep(), loader())
    return peak.megabytes


def test_a_model_on_meta_is_never_whole() -> None:
    for megabytes in run_ranks(2, of_memory, process_group=False):
        # Half of 16, and what it takes to flatten one unit and to draw and read a block.
        assert 8 < megabytes < 12
