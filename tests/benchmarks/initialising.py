"""How long it takes to initialise and to measure models, next to the other ways to do so.

Run it from the root of the repository: ``python -m tests.benchmarks.initialising``. The ways of one comparison take
turns in one process; what is told is the median of the rounds, in seconds and as a multiple of our time.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lightning_init import InitWeightsCallback, init_weights, skip_default_init
from lightning_init.moments import moments_of_all
from lightning_init.text import columns
from tests.benchmarks.measuring import MIB, Job, machine, measure
from tests.trainers import Net, loader

Ways = Mapping[str, Callable[[], object]]

RULES: dict[str, dict[str, Any]] = {
    "Normal": {"type": "Normal", "std": 0.02},
    "Kaiming": {"type": "Kaiming"},
    "Xavier": {"type": "Xavier", "distribution": "uniform"},
    "Uniform": {"type": "Uniform", "a": -0.05, "b": 0.05},
    "TruncNormal": {"type": "TruncNormal", "std": 0.02, "a": -0.04, "b": 0.04},
}

TORCH: dict[str, Callable[[Tensor], Tensor]] = {
    "Normal": partial(nn.init.normal_, std=0.02),
    "Kaiming": partial(nn.init.kaiming_normal_, mode="fan_out"),
    "Xavier": nn.init.xavier_uniform_,
    "Uniform": partial(nn.init.uniform_, a=-0.05, b=0.05),
    "TruncNormal": partial(nn.init.trunc_normal_, std=0.02, a=-0.04, b=0.04),
}


class Block(nn.Module):
    """What a transformer's block has: 12 * width ** 2 weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)


class Transformer(nn.Module):
    """Blocks and nothing else."""

    def __init__(self, blocks: int, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))


def config(rule: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{**rule, "layer": "Linear"}, {"type": "Constant", "layer": "LayerNorm", "val": 1}]


def by_mmengine(model: nn.Module, rules: Any) -> None:
    from mmengine.logging import MMLogger  # noqa: PLC0415 - heavy, and only this way needs it
    from mmengine.model import Sequential  # noqa: PLC0415 - the same

    MMLogger.get_current_instance().setLevel("ERROR")
    Sequential(model, init_cfg=rules).init_weights()


def by_torch(model: nn.Module, fill: Callable[[Tensor], Tensor]) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            fill(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def by_us(model: nn.Module, rules: Any) -> None:
    model.is_init = False  # type: ignore[assignment]  # a plain attribute
    init_weights(model, rules, seed=0)


def contest(name: str, ways: Ways, rounds: int) -> Iterator[tuple[str, ...]]:
    """The rows of one comparison; the last way is ours."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - start)
    medians = {way: statistics.median(found) for way, found in seconds.items()}
    ours = list(medians.values())[-1]
    for way, median in medians.items():
        yield name, way, f"{median:.3f}", f"{median / ours:.2f}"


def laws(blocks: int, width: int, rounds: int) -> Iterator[tuple[str, ...]]:
    model = Transformer(blocks, width)
    for name, rule in RULES.items():
        rules = config(rule)
        ways: Ways = {
            "MMEngine": partial(by_mmengine, model, rules),
            "torch.nn.init, in a loop": partial(by_torch, model, TORCH[name]),
            "lightning_init": partial(by_us, model, rules),
        }
        yield from contest(name, ways, rounds if name != "TruncNormal" else 1)


def orthogonal(size: int) -> Iterator[tuple[str, ...]]:
    model = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in range(4))
    rules = {"type": "Orthogonal", "layer": "Linear"}
    ways: Ways = {
        "torch.nn.init.orthogonal_": lambda: [nn.init.orthogonal_(weight) for weight in model.parameters()],
        "lightning_init": partial(by_us, model, rules),
    }
    yield from contest(f"Orthogonal, 4 of {size} x {size}", ways, 1)


def from_the_class(blocks: int, width: int, rounds: int) -> Iterator[tuple[str, ...]]:
    rules = config(RULES["Normal"])

    def built_by_us() -> None:
        with skip_default_init():
            model = Transformer(blocks, width)
        by_us(model, rules)

    def on_meta() -> None:
        with torch.device("meta"):
            model = Transformer(blocks, width)
        by_us(model.to_empty(device="cpu"), rules)

    ways: Ways = {
        "constructor, MMEngine": lambda: by_mmengine(Transformer(blocks, width), rules),
        "meta, to_empty, lightning_init": on_meta,
        "skip_default_init, lightning_init": built_by_us,
    }
    yield from contest("class to weights", ways, rounds)


def measuring(blocks: int, width: int, rounds: int) -> Iterator[tuple[str, ...]]:
    tensors = dict(Transformer(blocks, width).named_parameters())
    ways: Ways = {
        "torch.std_mean alone": lambda: [torch.std_mean(tensor) for tensor in tensors.values() if tensor.numel() > 1],
        "lightning_init, all eight": lambda: moments_of_all(tensors),
    }
    with torch.no_grad():
        yield from contest("statistics", ways, rounds)


def many(counts: tuple[int, ...], rounds: int) -> Iterator[tuple[str, ...]]:
    rules = config(RULES["Normal"])
    for blocks in counts:
        model = Transformer(blocks, 4)
        parameters = sum(1 for _ in model.parameters())
        ways: Ways = {"MMEngine": partial(by_mmengine, model, rules), "lightning_init": partial(by_us, model, rules)}
        yield from contest(f"{parameters:,} small parameters", ways, rounds)


def callback(rounds: int) -> Iterator[tuple[str, ...]]:
    def fit(*callbacks: L.Callback) -> None:
        with tempfile.TemporaryDirectory() as folder:
            silent: dict[str, Any] = dict.fromkeys(
                ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
            )
            trainer = L.Trainer(
                accelerator="cpu", max_steps=1, default_root_dir=folder, callbacks=list(callbacks), **silent
            )
            trainer.fit(Net(), loader())

    ways: Ways = {"fit without the callback": fit, "fit with it": lambda: fit(InitWeightsCallback(log=()))}
    yield from contest("a tiny model", ways, 5 * rounds)


def _filling(dtype: torch.dtype) -> tuple[Callable[[], object], Callable[[], object]]:
    """What `measure` measures: a model of 512 MiB in float32 that has been written to, so that its memory is there."""
    model = nn.ModuleList(nn.Linear(4096, 4096, bias=False) for _ in range(8)).to(dtype)
    rules = [{"type": "Normal", "layer": "Linear"}]
    return lambda: init_weights(model, rules, seed=0).measure(), lambda: None


def memory() -> Iterator[tuple[str, ...]]:
    for dtype in (torch.float32, torch.bfloat16):
        job: Job = partial(_filling, dtype)
        size = 8 * 4096 * 4096 * dtype.itemsize / MIB
        more = measure(job, 1, preload=[__name__]).anonymous
        yield (
            f"memory, {str(dtype).removeprefix('torch.')}",
            f"{size:.0f} MiB of weights",
            f"{more:+.0f} MiB",
            f"{1 + more / size:.3f}",
        )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--blocks", type=int, default=24, help="blocks of the large model (default: 24)")
    parser.add_argument("--width", type=int, default=1024, help="their width (default: 1024)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each comparison (default: 3)")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    # What is imported at its first use does not count.
    by_mmengine(nn.Linear(1, 1), RULES["Normal"])
    size = (arguments.blocks, arguments.width, arguments.rounds)
    rows: list[tuple[str, ...]] = [("what", "way", "seconds", "ratio to ours")]
    for found in (
        laws(*size),
        orthogonal(4 * arguments.width),
        from_the_class(*size),
        measuring(*size),
        many((2_000, 8_333), arguments.rounds),
        callback(3),
        memory(),
    ):
        rows += found
    millions = 12 * arguments.blocks * arguments.width**2 / 1e6
    print(f"a transformer of {millions:.0f} million parameters; {machine()}\n\n{columns(rows)}")


if __name__ == "__main__":
    main()
