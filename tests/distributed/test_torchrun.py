"""`init_weights` in plain torch under torchrun, on two nodes with caches of their own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from lightning_init import init_weights
from lightning_init.distributed import rank
from tests.checkpoint.servers import Answer, web_server
from tests.distributed.guarantees import assert_guarantees
from tests.distributed.models import LitNet, digests, told
from tests.distributed.scripts import Found, attempts, found_by, keep, torchrun

HELD = {"plain.weight": torch.full((2, 2), 7.0), "plain.bias": torch.full((2,), 8.0)}


def script(folder: str) -> None:
    dist.init_process_group("gloo")
    found = {f"{case} (in DDP)": outcome for case, outcome in attempts(folder, DistributedDataParallel).items()}
    keep(folder, {**attempts(folder, lambda module: module), **found, "fetched": told(lambda: fetched(folder))})
    module = LitNet()
    if rank() == 3:
        module.init_cfg = {"type": "Norml", "layer": "Linear"}
    # Nobody catches it.
    init_weights(module)


def fetched(folder: str) -> dict[str, str]:
    torch.manual_seed(0)
    url = (Path(folder) / "url").read_text(encoding="utf-8")
    module = LitNet({"type": "Pretrained", "checkpoint": url, "name": "plain"})
    init_weights(module, seed=5)
    return digests(module)


@dataclass(frozen=True)
class Job:
    """What two nodes of two ranks did.

    Attributes:
        outputs: What each node wrote, as an error if it failed.
        ranks: What each rank saw before the end.
        body: The file that they fetched.
        asked: How often they did.
        homes: Where each node has its cache.
    """

    outputs: list[str | AssertionError]
    ranks: list[Found]
    body: bytes
    asked: int
    homes: list[Path]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    folder = tmp_path_factory.mktemp("torchrun")
    body = safetensors.torch.save(HELD)
    name = f"/w-{hashlib.sha256(body).hexdigest()[:8]}.safetensors"
    homes = [folder / "home0", folder / "home1"]
    with web_server() as web:
        (folder / "url").write_text(web.serve(name, Answer(body)), encoding="utf-8")
        outputs = torchrun(script, folder, nodes=[{"TORCH_HOME": str(home)} for home in homes], deadline=100)
        assert len(list(folder.glob("*.json"))) == 4, outputs
        yield Job(outputs, found_by(folder, 4), body, web.asked(name), homes)


def test_ranks_agree_and_errors_reach_all_of_them(job: Job) -> None:
    assert_guarantees(job.ranks)


def test_so_they_do_behind_ddp(job: Job) -> None:
    ending = " (in DDP)"
    assert_guarantees(
        [{case.removesuffix(ending): found[case] for case in found if case.endswith(ending)} for found in job.ranks]
    )


def test_each_node_fetches_once_into_its_own_cache_and_all_ranks_agree(job: Job) -> None:
    assert job.asked == 2
    for home in job.homes:
        (kept,) = home.rglob("*.safetensors")
        assert kept.read_bytes() == job.body
    ranks = [found["fetched"] for found in job.ranks]
    assert not any(found.error for found in ranks), ranks
    assert all(found.value == ranks[0].value for found in ranks)
    expected = LitNet()
    expected.load_state_dict(HELD, strict=False)
    assert ranks[0].value["plain.weight"] == digests(expected)["plain.weight"]


def test_one_node_that_fails_ends_all(job: Job) -> None:
    for output in job.outputs:
        assert isinstance(output, AssertionError)
        assert "ended with 1" in str(output)
        assert re.search(
            r"InitConfigError: LitNet\.init_cfg\.type: unknown initializer 'Norml'.* \[on rank 3\]", str(output)
        )
