"""Functions of the tests as scripts: of Fabric's launchers, and of torchrun on one or several nodes of this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_init import init_weights
from lightning_init.distributed import rank
from lightning_init.wrappers import unwrap
from tests.distributed.harness import LOOPBACK, find_free_port, run_script
from tests.distributed.models import LitNet, Told, digests, told

__all__ = ["Found", "Wrap", "attempts", "found_by", "keep", "run_function", "torchrun"]

ROOT = Path(__file__).parents[2]

Wrap = Callable[[nn.Module], nn.Module]
Found = dict[str, Told]


def run_function(function: Callable[[str], None], folder: Path, *command: str, **arguments: Any) -> str:
    """Runs a function of a test module, which gets the folder, as a script of its own."""
    path = folder / f"{function.__name__}.py"
    path.write_text(
        f"import sys\n\nfrom {function.__module__} import {function.__name__}\n\n"
        f"if __name__ == '__main__':\n    {function.__name__}(sys.argv[1])\n",
        encoding="utf-8",
    )
    env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": LOOPBACK, **arguments.pop("env", {})}
    return run_script([*command, path, folder], env=env, **arguments)


def torchrun(
    function: Callable[[str], None],
    folder: Path,
    *,
    nodes: Sequence[Mapping[str, str]] = ({},),
    ranks: int = 2,
    deadline: float = 60,
) -> list[str | AssertionError]:
    """Runs a function under torchrun.

    Args:
        function: What every rank does.
        folder: What it gets.
        nodes: The variables of each node; a torchrun is started for each.
        ranks: How many ranks a node has.
        deadline: Seconds until everything is killed.

    Returns:
        For every node what it wrote, as an error if it failed.
    """
    port = find_free_port()

    def node(index: int) -> str | AssertionError:
        command = ["-m", "torch.distributed.run", f"--nnodes={len(nodes)}", f"--node-rank={index}"]
        command += [f"--nproc-per-node={ranks}", "--master-addr=127.0.0.1", f"--master-port={port}"]
        try:
            return run_function(function, folder, *command, env=nodes[index], deadline=deadline)
        except AssertionError as error:
            return error

    with ThreadPoolExecutor(len(nodes)) as pool:
        return list(pool.map(node, range(len(nodes))))


def keep(folder: str, found: Found) -> None:
    """Leaves what this rank saw to the test that has started it."""
    held = {case: asdict(outcome) for case, outcome in found.items()}
    (Path(folder) / f"{rank()}.json").write_text(json.dumps(held), encoding="utf-8")


def found_by(folder: Path, ranks: int) -> list[Found]:
    """What every rank has left."""
    texts = [(folder / f"{i}.json").read_text(encoding="utf-8") for i in range(ranks)]
    return [{case: Told(**held) for case, held in json.loads(text).items()} for text in texts]


class Fails(nn.Module):
    """Its method fails on rank one."""

    def init_weights(self) -> None:
        if rank() == 1:
            raise ZeroDivisionError("by zero")


def attempts(folder: str, wrap: Wrap) -> Found:
    """What `init_weights` comes to, with differently seeded ranks.

    Args:
        folder: Where a checkpoint ``0.pth`` may be.
        wrap: What is done to a module before.
    """
    torch.manual_seed(100 + rank())

    def initialised(module: LitNet | None = None, **arguments: Any) -> dict[str, str]:
        wrapped = wrap(module or LitNet())
        init_weights(wrapped, **arguments)
        return {name: bits for name, bits in digests(unwrap(wrapped)).items() if not name.startswith("plain.")}

    failing = LitNet()
    failing.more = Fails()
    missing = {"type": "Pretrained", "checkpoint": f"{folder}/nowhere.pth"}
    return {
        "seeded": told(partial(initialised, seed=5)),
        "unseeded": told(initialised),
        "a missing file": told(partial(initialised, init_cfg=missing)),
        "another config": told(partial(initialised, init_cfg={"type": "Constant", "layer": "Conv1d", "val": rank()})),
        "code that fails": told(partial(initialised, failing)),
        "afterwards": told(partial(initialised, seed=5)),
    }
