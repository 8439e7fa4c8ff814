"""Checkpoints that two ranks have to fetch: once, by rank zero, and with the same values on both."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lightning_init import InitWeightsCallback, build_plan
from lightning_init.checkpoint import inspect
from lightning_init.distributed import rank
from tests.checkpoint.files import bits
from tests.checkpoint.folders_of_torch import save
from tests.checkpoint.servers import Answer, Web, web_server
from tests.distributed.harness import run_ranks
from tests.distributed.models import Told, digests, loader, told, trainer
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
    shards,
    state,
)

State = dict[str, bytes]


def as_file() -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": content()}, file)
    return file.getvalue()


BODY = as_file()
SHA256 = hashlib.sha256(BODY).hexdigest()

ONCE: dict[Way, tuple[str, dict[str, Any]]] = {
    "init_weights": (f"/once/w-{SHA256[:8]}.pth", {}),
    "fit": ("/once/w.pth", {"sha256": SHA256}),
}
"""What is fetched in each way, and how its hash is given."""

HASHED = f"/received/w-{SHA256[:8]}.pth"

LOCAL = ("w.pth", "chunks", "shards/model.safetensors.index.json")
"""What only the folder of rank zero holds."""

RESUMED = "/resumed/w.pth"


def pretrained(checkpoint: object, **arguments: Any) -> dict[str, Any]:
    return {"type": "Pretrained", "checkpoint": str(checkpoint), **FITTING, **arguments}


def names_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


# Each of these runs on both ranks.


def fetch_once(url: str, folder: Path) -> dict[Way, State]:
    """With one cache for both. Rank zero is the slow one, so that it is first only if rank one waits for it."""
    SlowInit.delay = 0.3 if rank() == 0 else 0.0
    found: dict[Way, State] = {}
    for way, (path, arguments) in ONCE.items():
        with at_home(folder / way):
            rule = {**pretrained(f"{url}{path}", **arguments), "type": SlowInit}
            found[way] = initialise(Picture(rule), way)
    return found


def receive(url: str, folder: Path) -> tuple[dict[str, State], list[str]]:
    """Each rank has a cache of its own; what it kept there comes second."""
    home = folder / f"rank{rank()}" / "torch"
    sources = (f"{url}{HASHED}", f"{url}/received/model.safetensors.index.json", *LOCAL)
    with at_home(home):
        found = {source: initialise(Picture(pretrained(source)), "broadcast") for source in sources}
    return found, names_below(home)


@dataclass(frozen=True)
class Resumed:
    """Three fits on one rank: from a checkpoint, resumed when that is gone, and anew.

    Attributes:
        trained: The bits of every parameter that were saved behind the first.
        resumed: Those behind the second.
        anew: What the third says.
    """

    trained: dict[str, str]
    resumed: dict[str, str]
    anew: Told


def resume(url: str, folder: Path) -> Resumed:
    rule = pretrained(f"{url}{RESUMED}")

    def run(module: Picture, *, max_steps: int = 1, restored: Path | None = None) -> pl.Trainer:
        strategy = StateDDP(process_group_backend="gloo")
        callback = InitWeightsCallback(seed=5, log=())
        made = trainer(strategy=strategy, devices=2, callbacks=[callback], max_steps=max_steps)
        made.fit(module, loader(), ckpt_path=restored)
        return made

    module, again, anew = Picture(rule), Picture(rule), Picture(rule)
    with at_home(folder / "before"):
        first = run(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    first.save_checkpoint(folder / "last.ckpt")
    with at_home(folder / "after"):
        run(again, max_steps=2, restored=folder / "last.ckpt")
        return Resumed(digests(module), digests(again), told(lambda: run(anew)))


@dataclass(frozen=True)
class Job:
    """All of this, on one rank, and the plan that rank one alone makes."""

    fetched: dict[Way, State]
    received: dict[str, State]
    kept: list[str]
    resumed: Resumed
    plan: str


def run_job(url: str, folder: Path) -> Job:
    set_up()
    torch.manual_seed(100 + rank())
    os.chdir(folder / f"rank{rank()}")
    fetched = fetch_once(url, folder / "once")
    received, kept = receive(url, folder)
    resumed = resume(url, folder / "resumed")
    with at_home(folder / "planned"):
        plan = str(build_plan(Picture(pretrained(f"{url}/planned/w.pth")))) if rank() == 1 else ""
    return Job(fetched, received, kept, resumed, plan)


Served = tuple[Web, list[Job]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server, and what two ranks did with it, in one pair of processes."""
    folder = tmp_path_factory.mktemp("job")
    for name in ("rank0/shards", "rank1", "resumed"):
        (folder / name).mkdir(parents=True)
    (folder / "rank0" / "w.pth").write_bytes(BODY)
    save(content(), folder / "rank0" / "chunks")
    with web_server() as web:
        for name, body in shards().items():
            (folder / "rank0" / "shards" / name).write_bytes(body)
            web.serve(f"/received/{name}", Answer(body))
        for path in (*(path for path, _ in ONCE.values()), HASHED, "/planned/w.pth"):
            web.serve(path, Answer(BODY))
        web.serve(RESUMED, Answer(BODY), Answer(status=410))
        yield web, run_ranks(2, run_job, web.url, folder, deadline=100)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> State:
    """The state that a single process comes to."""
    path = tmp_path_factory.mktemp("alone") / "w.pth"
    path.write_bytes(BODY)
    return initialise(Picture(pretrained(path)), "init_weights")


def test_a_single_process_holds_the_values_of_the_file(alone: State) -> None:
    """What the others are compared with: the values, converted and made to fit."""
    values = content()
    grown = values["net.conv.weight"].float()[:, [0, 1, 2, 0]] * 0.75
    expected = {"stem.weight": grown, "stem.bias": values["net.conv.bias"].float()}
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        expected[f"norm.{name}"] = values[f"net.norm.{name}"]
    for name, tensor in expected.items():
        assert alone[f"backbone.{name}"] == bits(tensor), name
    assert alone["backbone.top.bias"] == bits(torch.full((3,), 0.5))


@pytest.mark.parametrize("way", ONCE)
def test_a_file_is_fetched_once_and_by_rank_zero(served: Served, alone: State, way: Way) -> None:
    web, ranks = served
    assert asking(web, ONCE[way][0]) == [0]
    assert [job.fetched[way] for job in ranks] == [alone, alone]


def test_with_broadcast_rank_zero_alone_has_access(served: Served, alone: State) -> None:
    web, (zero, one) = served
    assert [asking(web, f"/received/{name}") for name in (*shards(), Path(HASHED).name)] == [[0]] * 4
    # In the folder of rank one are no files, and nothing was put into its cache.
    assert one.kept == []
    assert {Path(HASHED).name, *shards()} <= set(zero.kept)
    assert list(zero.received) == list(one.received)
    assert len(zero.received) == 5
    for source in zero.received:
        assert zero.received[source] == alone, source
        assert one.received[source] == alone, source


def test_a_resumed_run_needs_its_source_no_more(served: Served) -> None:
    web, ranks = served
    assert asking(web, RESUMED) == [0, 0, 0]
    for job in ranks:
        assert job.resumed.resumed == job.resumed.trained
        assert job.resumed.anew.error == "CheckpointError"
        assert "the server answers 410 Gone" in job.resumed.anew.message
    # Otherwise the first two would say nothing.
    assert ranks[0].resumed.trained == ranks[1].resumed.trained


def test_one_rank_alone_may_plan(served: Served) -> None:
    web, ranks = served
    assert asking(web, "/planned/w.pth") == [1]
    assert "net.conv.weight (3 -> 4 input channels: repeated in turn, times 3/4, float16 -> float32)" in ranks[1].plan


def test_a_dry_run_fetches_but_writes_nothing(served: Served, tmp_path: Path) -> None:
    web, _ = served
    url = web.serve("/dry/w.pth", Answer(BODY))
    rule = pretrained(url, sha256=SHA256)
    with torch.device("meta"):
        on_meta = Picture(rule)
    module = Picture(rule)
    before = state(module)
    with at_home(tmp_path):
        plans = [build_plan(on_meta), build_plan(module)]
        found = [inspect(url, it, sha256=SHA256, **FITTING) for it in (on_meta, module, None)]
    assert str(plans[0]) == str(plans[1])
    assert str(found[0]) == str(found[1])
    assert plans[0]["backbone.norm.weight"].claims[-1].key == "net.norm.weight"
    told = {key.key: (key.state, key.name) for key in found[0]}
    assert told == {
        "net.conv.weight": ("loaded", "backbone.stem.weight"),
        "net.conv.bias": ("loaded", "backbone.stem.bias"),
        **{key: ("loaded", f"backbone.{key.removeprefix('net.')}") for key in content() if "norm" in key},
        "net.top.weight": ("dropped", "backbone.top.weight"),
        "net.top.bias": ("dropped", "backbone.top.bias"),
        "other.large": ("outside", None),
    }
    assert found[2]["net.top.bias"].state == "offered"
    assert len([request for request in web.requests if request.path == "/dry/w.pth"]) == 1
    assert {tensor.device.type for tensor in on_meta.state_dict().values()} == {"meta"}
    assert state(module) == before
    assert not hasattr(module, "is_init")
    assert sorted(path.name for path in tmp_path.rglob("*.pth")) == ["w.pth"]
