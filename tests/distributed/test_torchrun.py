"""`init_weights` in plain torch under torchrun, on one node and on two with caches of their own."""

from __future__ import annotations

import hashlib
import re
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


def script(folder: str) -> None:
    dist.init_process_group("gloo")
    found = {f"{case} (in DDP)": outcome for case, outcome in attempts(folder, DistributedDataParallel).items()}
    keep(folder, {**attempts(folder, lambda module: module), **found})
    dist.destroy_process_group()


def fetched(folder: str) -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    url = (Path(folder) / "url").read_text(encoding="utf-8")
    module = LitNet({"type": "Pretrained", "checkpoint": url, "name": "plain"})

    def load() -> dict[str, str]:
        init_weights(module, seed=5)
        return digests(module)

    keep(folder, {"fetched": told(load)})


def fails_on_the_last(folder: str) -> None:
    dist.init_process_group("gloo")
    module = LitNet()
    if rank() == 3:
        module.init_cfg = {"type": "Norml", "layer": "Linear"}
    # Nobody catches it.
    init_weights(module)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    folder = tmp_path_factory.mktemp("torchrun")
    (output,) = torchrun(script, folder)
    assert isinstance(output, str), output
    return found_by(folder, 2)


def test_ranks_agree_and_errors_reach_all_of_them(ranks: list[Found]) -> None:
    assert_guarantees(ranks)


def test_so_they_do_behind_ddp(ranks: list[Found]) -> None:
    ending = " (in DDP)"
    assert_guarantees(
        [{case.removesuffix(ending): found[case] for case in found if case.endswith(ending)} for found in ranks]
    )


def test_each_node_fetches_once_into_its_own_cache_and_all_ranks_agree(tmp_path: Path) -> None:
    held = {"plain.weight": torch.full((2, 2), 7.0), "plain.bias": torch.full((2,), 8.0)}
    body = safetensors.torch.save(held)
    homes = [tmp_path / "home0", tmp_path / "home1"]
    with web_server() as web:
        name = f"/w-{hashlib.sha256(body).hexdigest()[:8]}.safetensors"
        (tmp_path / "url").write_text(web.serve(name, Answer(body)), encoding="utf-8")
        outputs = torchrun(fetched, tmp_path, nodes=[{"TORCH_HOME": str(home)} for home in homes])
        assert all(isinstance(output, str) for output in outputs), outputs
        assert web.asked(name) == 2
    for home in homes:
        (kept,) = home.rglob("*.safetensors")
        assert kept.read_bytes() == body
    ranks = [found["fetched"] for found in found_by(tmp_path, 4)]
    assert not any(found.error for found in ranks), ranks
    assert all(found.value == ranks[0].value for found in ranks)
    expected = LitNet()
    expected.load_state_dict(held, strict=False)
    assert ranks[0].value["plain.weight"] == digests(expected)["plain.weight"]


def test_one_node_that_fails_ends_all(tmp_path: Path) -> None:
    outputs = torchrun(fails_on_the_last, tmp_path, nodes=[{}, {}])
    for output in outputs:
        assert isinstance(output, AssertionError)
        assert "ended with 1" in str(output)
        assert re.search(
            r"InitConfigError: LitNet\.init_cfg\.type: unknown initializer 'Norml'.* \[on rank 3\]", str(output)
        )
