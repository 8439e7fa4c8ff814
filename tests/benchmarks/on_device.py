"""How long it takes to initialise and to measure a model on a GPU, next to loops over torch's own functions.

Run it from the root of the repository: ``python -m tests.benchmarks.on_device``. Ways take turns; what is told is the
median of the rounds, in seconds, as a multiple of our time, and as a share of what the device moves in that time when
it copies. Bytes count once for every number that is written or read, at the size that the weights have.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from lightning_init import init_weights
from lightning_init.text import columns
from tests.benchmarks.initialising import RULES, TORCH, by_us
from tests.benchmarks.measuring import MIB, machine


def synchronise(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    start = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - start


def bandwidth(device: torch.device, size: int) -> float:
    """Bytes a second that a copy reads and writes, the best of five."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / min(seconds(lambda: target.copy_(source), device) for _ in range(5))


def fill_all(model: nn.Module, fill: Callable[[Tensor], Tensor]) -> None:
    for weight in model.parameters():
        fill(weight)


def std_mean(model: nn.Module) -> None:
    for weight in model.parameters():
        torch.std_mean(weight.detach())


def bytes_of(model: nn.Module) -> int:
    return sum(weight.nbytes for weight in model.parameters())


def rows(model: nn.Module, device: torch.device, moved: float, rounds: int) -> Iterator[tuple[str, ...]]:
    size = bytes_of(model)
    contests: dict[str, Mapping[str, Callable[[], object]]] = {
        law: {
            "torch.nn.init, in a loop": partial(fill_all, model, TORCH[law]),
            "lightning_init": partial(by_us, model, {**RULES[law], "layer": "Linear"}),
        }
        for law in ("Normal", "TruncNormal")
    }
    report = init_weights(model, {"type": "Normal", "layer": "Linear"}, seed=0)
    contests["statistics"] = {
        "torch.std_mean alone": partial(std_mean, model),
        "lightning_init, all eight": report.measure,
    }
    for what, ways in contests.items():
        took = {way: statistics.median(seconds(run, device) for _ in range(rounds)) for way, run in ways.items()}
        ours = list(took.values())[-1]
        for way, median in took.items():
            yield what, way, f"{median:.3f}", f"{median / ours:.2f}", f"{size / median / moved:.0%}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"), help="where (default: cuda)")
    parser.add_argument("--dtype", default="bfloat16", help="the type of the weights (default: bfloat16)")
    parser.add_argument("--layers", type=int, default=104, help="how many linear layers (default: 104)")
    parser.add_argument("--width", type=int, default=8192, help="their width (default: 8192, 7 billion weights in all)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each way (default: 3)")
    arguments = parser.parse_args()
    device, dtype = arguments.device, getattr(torch, arguments.dtype)
    with torch.device("meta"):
        model = nn.ModuleList(nn.Linear(arguments.width, arguments.width, bias=False) for _ in range(arguments.layers))
    model.to(dtype).to_empty(device=device)
    header = ("what", "way", "seconds", "ratio to ours", "of the bandwidth of a copy")
    print(f"{sum(weight.numel() for weight in model.parameters()) / 1e9:.2f} billion weights, {dtype}; {machine()}\n")
    moved = bandwidth(device, min(bytes_of(model), 2**30))
    accelerator = torch.get_device_module(device)
    if device.type != "cpu":
        accelerator.reset_peak_memory_stats(device)
    print(columns([header, *rows(model, device, moved, arguments.rounds)]))
    if device.type != "cpu":
        most, weights = accelerator.max_memory_allocated(device) / MIB, bytes_of(model) / MIB
        print(f"\n{accelerator.get_device_name(device)}; {weights:.0f} MiB of weights, at most {most:.0f} MiB in all")


if __name__ == "__main__":
    main()
