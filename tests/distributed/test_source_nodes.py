"""Two nodes of two ranks each, with caches of their own or a common one, that fetch a checkpoint."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed as dist

from lightning_init.distributed import rank
from tests.checkpoint.servers import Answer, Web, web_server
from tests.distributed.harness import run_ranks
from tests.distributed.models import Told, told
from tests.distributed.pictures import (
    FITTING,
    Picture,
    SlowInit,
    StateDDP,
    Way,
    asking,
    at_home,
    content,
    initialise,
    set_up,
)
from tests.distributed.pictures import state as state_of

BODY = safetensors.torch.save(content())
SHA256 = hashlib.sha256(BODY).hexdigest()

DISKS = {"small": "size=32k", "closed": "size=1m", "filled": "size=1m"}
"""File systems of their own and their options. On the first, the checkpoint has no place."""

PROMPTLY = 10.0
"""Seconds in which every rank has to end; one that waits would do so for half an hour."""


@dataclass(frozen=True)
class Case:
    """One initialisation.

    Attributes:
        homes: Where each of the two nodes keeps what it fetches.
        way: How it is started.
        variable: What tells the nodes from each other.
    """

    homes: tuple[str, str]
    way: Way = "init_weights"
    variable: str = "NODE_RANK"


CASES: Mapping[str, Case] = {
    "own-caches": Case(("0", "1")),
    "own-caches-in-a-fit": Case(("0", "1"), "fit"),
    "own-caches-under-torchrun": Case(("0", "1"), variable="GROUP_RANK"),
    "own-caches-under-slurm": Case(("0", "1"), variable="SLURM_NODEID"),
    "own-caches-and-broadcast": Case(("0", "1"), "broadcast"),
    "a-common-cache": Case(("0", "0")),
    "a-common-cache-in-a-fit": Case(("0", "0"), "fit"),
}
"""What goes well."""

MOUNTED: Mapping[str, Case] = {
    "full": Case(("0", "small")),
    "full-in-a-fit": Case(("0", "small"), "fit"),
    "full-on-the-first-node": Case(("small", "1")),
    "full-before-the-end": Case(("0", "small")),
    "read-only": Case(("0", "closed")),
    "read-only-but-filled": Case(("0", "filled")),
}
"""What needs those file systems."""


@dataclass(frozen=True)
class Seen:
    """What one rank saw of a case: what it came to, and the bits before and after."""

    told: Told
    before: dict[str, bytes]
    after: dict[str, bytes]


def run_case(name: str, case: Case, url: str, folder: Path) -> Seen:
    """The first rank of each node is the slow one, so that it is first only if the others wait for it."""
    node = rank() // 2
    SlowInit.delay = 0.3 if rank() % 2 == 0 else 0.0
    home = case.homes[node]
    module = Picture({"type": SlowInit, "checkpoint": f"{url}/{name}.safetensors", "sha256": SHA256, **FITTING})
    before = state_of(module)
    strategy = StateDDP(process_group_backend="gloo")
    for variable in ("NODE_RANK", "GROUP_RANK", "SLURM_NODEID"):
        os.environ.pop(variable, None)
    os.environ[case.variable] = str(node)
    with at_home(folder / home if home in DISKS else folder / name / home):
        found = told(partial(initialise, module, case.way, nodes=2, strategy=strategy))
    return Seen(found, before, vars(strategy).get("before", state_of(module)))


def run_cases(cases: Mapping[str, Case], url: str, folder: Path) -> dict[str, Seen]:
    set_up()
    torch.manual_seed(100 + rank())
    os.environ["LOCAL_RANK"] = str(rank() % 2)
    seen = {}
    for name, case in cases.items():
        seen[name] = run_case(name, case, url, folder)
        dist.barrier()
    return seen


def mount(*arguments: object) -> None:
    found = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, timeout=10, check=False)
    if found.returncode:
        raise PermissionError(found.stderr)


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=True, timeout=10)


def mount_disks(folder: Path, stack: ExitStack) -> None:
    for name, options in DISKS.items():
        (folder / name).mkdir()
        mount("-t", "tmpfs", "-o", options, "tmpfs", folder / name)
        stack.callback(unmount, folder / name)
    kept = folder / "filled" / "hub" / "checkpoints"
    kept.mkdir(parents=True)
    (kept / "read-only-but-filled.safetensors").write_bytes(BODY)
    for name in ("closed", "filled"):
        mount("-o", "remount,ro", folder / name)


@dataclass(frozen=True)
class Ran:
    """A server, the folder, and what four ranks saw of every case, in processes that lived through all of them."""

    web: Web
    folder: Path
    seen: list[dict[str, Seen]]

    def of(self, case: str) -> list[Seen]:
        if case not in self.seen[0]:
            pytest.skip("no file systems can be mounted here")
        return [of_rank[case] for of_rank in self.seen]

    def asking(self, case: str) -> list[int]:
        return asking(self.web, f"/{case}.safetensors")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("nodes")
    cases = {**CASES, **MOUNTED}
    with ExitStack() as stack:
        try:
            mount_disks(folder, stack)
        except OSError:
            cases = dict(CASES)
        web = stack.enter_context(web_server())
        for name in cases:
            # Of one of them nobody knows the size before the disk is full.
            web.serve(f"/{name}.safetensors", Answer(BODY, length=-2 if name == "full-before-the-end" else None))
        yield Ran(web, folder, run_ranks(4, run_cases, cases, web.url, folder, deadline=110))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The state that a single process comes to."""
    path = tmp_path_factory.mktemp("alone") / "w.safetensors"
    path.write_bytes(BODY)
    return initialise(Picture({"type": "Pretrained", "checkpoint": str(path), **FITTING}), "init_weights")


@pytest.mark.parametrize("case", CASES)
def test_each_cache_is_filled_once_by_the_first_rank_that_has_it(ran: Ran, alone: dict[str, bytes], case: str) -> None:
    seen = ran.of(case)
    assert [it.told.error for it in seen] == [""] * 4, seen[0].told.message
    for it in seen:
        assert it.told.value == alone
    once = CASES[case].way == "broadcast" or len(set(CASES[case].homes)) == 1
    assert ran.asking(case) == ([0] if once else [0, 2])


@pytest.mark.parametrize(
    ("case", "asked", "failed", "told"),
    [
        ("full", [0, 2], 2, "bytes, and 28672 are free; free some, or let TORCH_HOME name a folder on another disk"),
        ("full-in-a-fit", [0, 2], 2, "no space left in the cache"),
        ("full-before-the-end", [0, 2], 2, "no space left in the cache"),
        ("full-on-the-first-node", [0], 0, "no space left in the cache"),
        ("read-only", [0], 2, "cannot be put there: Read-only file system"),
    ],
)
def test_a_cache_that_takes_nothing_ends_every_rank_of_both_nodes(
    ran: Ran, case: str, asked: list[int], failed: int, told: str
) -> None:
    seen = ran.of(case)
    assert len({(it.told.error, it.told.message) for it in seen}) == 1, [it.told for it in seen]
    assert seen[0].told.error == "CheckpointError"
    assert max(it.told.seconds for it in seen) < PROMPTLY
    message = seen[0].told.message
    assert message.startswith("Picture.init_cfg[1].checkpoint: ")
    assert told in message
    assert f"{ran.web.url}/{case}.safetensors" in message
    assert message.endswith(f"[on rank {failed}]")
    assert ran.asking(case) == asked
    for it in seen:
        assert it.after == it.before
    names = [path.name for path in (ran.folder / MOUNTED[case].homes[failed // 2]).rglob("*")]
    assert f"{case}.safetensors" not in names
    assert "partial" not in names


def test_a_cache_that_takes_nothing_may_hold_the_file_already(ran: Ran, alone: dict[str, bytes]) -> None:
    for it in ran.of("read-only-but-filled"):
        assert it.told.value == alone, it.told
    assert ran.asking("read-only-but-filled") == [0]
