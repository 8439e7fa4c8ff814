"""Checkpoints that cannot be fetched, read or made to fit: the same error on both ranks, and nothing is written."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

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

PROMPTLY = 10.0
"""Seconds in which every rank has to end; one that waits would do so for half an hour."""

PATIENCE = 0.6
"""Seconds for which the ranks wait for the server that stalls."""

WAYS: tuple[Way, ...] = get_args(Way)

BODY = safetensors.torch.save(content())
SHA256 = hashlib.sha256(BODY).hexdigest()
HALF = len(BODY) // 2
NAME = "w.safetensors"
INDEX = "model.safetensors.index.json"


def lying(**fields: Any) -> bytes:
    """A safetensors file whose header says something else of the last of its tensors."""
    size = int.from_bytes(BODY[:8], "little")
    header = json.loads(BODY[8 : 8 + size])
    last = max((entry["data_offsets"][1], key) for key, entry in header.items())[1]
    header[last].update(fields)
    told = json.dumps(header).encode()
    return struct.pack("<Q", len(told)) + told + BODY[8 + size :]


def leading_out(index: bytes) -> bytes:
    """An index that names a file beside its folder."""
    return index.replace(b'"model-2.safetensors"', b'"../model-2.safetensors"')


OTHER_SHAPE = lying(shape=[7])
LONGER = lying(data_offsets=[0, 1 << 20])


@dataclass(frozen=True)
class Case:
    """One checkpoint.

    Attributes:
        told: What is said of it. ``{url}`` is that of the folder of this case.
        files: What the server answers for each name in its folder.
        name: What is asked for there.
        arguments: Those of the rule besides `FITTING`.
        at: The argument at fault.
        by_all: Every rank sees it; otherwise rank zero alone.
        kept: What is in the cache afterwards under its name; a whole file, as the server has it.
        tries: How often each attempt asks.
    """

    told: tuple[str, ...]
    name: str = NAME
    files: Mapping[str, Answer] = field(default_factory=lambda: {NAME: Answer(BODY)})
    arguments: Mapping[str, Any] = field(default_factory=dict)
    at: str = "checkpoint"
    by_all: bool = False
    kept: bytes = b""
    tries: int = 1


def half(hold: threading.Event | None = None) -> dict[str, Answer]:
    return {NAME: Answer(BODY, cut=HALF, etag='"a"', hold=hold)}


def cases(never: threading.Event | None = None) -> dict[str, Case]:
    """All of them, by name; an event that is not set holds up the one that stalls."""
    files = shards()
    first = {name: Answer(files[name]) for name in (INDEX, "model-1.safetensors")}
    out = {**{name: Answer(body) for name, body in files.items()}, INDEX: Answer(leading_out(files[INDEX]))}
    so_far = f"; {HALF} of {len(BODY)} bytes came"
    return {
        "absent": Case(("cannot download '{url}w.safetensors': the server answers 404 Not Found",), files={}),
        "another-hash": Case(
            (f"'{{url}}w.safetensors' is not what sha256 says: its SHA-256 is {SHA256}, expected {'0' * 64}; it was",),
            arguments={"sha256": "0" * 64},
        ),
        "dropped": Case(
            (f"cannot download '{{url}}w.safetensors': the connection ended before the file did{so_far}",),
            files=half(),
            tries=3,
        ),
        "stalled": Case(
            (f"cannot download '{{url}}w.safetensors': the server does not answer any more{so_far}",),
            files=half(never),
            tries=3,
        ),
        "without-a-shard": Case(
            ("cannot download '{url}model-2.safetensors': the server answers 404 Not Found",), INDEX, first
        ),
        "leading-out": Case(("{url}model.safetensors.index.json", "'../model-2.safetensors'"), INDEX, out),
        "lying-of-a-shape": Case(
            (
                "is a safetensors file that is cut off or damaged",
                "[fetched from '{url}w.safetensors'; remove the file to fetch it anew]",
            ),
            files={NAME: Answer(OTHER_SHAPE)},
            kept=OTHER_SHAPE,
        ),
        "lying-of-a-length": Case(
            ("'{url}w.safetensors' is cut off: the server sent less than the file says of itself; it was not kept",),
            files={NAME: Answer(LONGER)},
        ),
        "two-for-one-name": Case(
            ("net.conv.weight",),
            arguments={"revise_keys": [("bias|weight", "x")]},
            at="revise_keys[0]",
            by_all=True,
            kept=BODY,
        ),
        "nothing-included": Case(("stam.*",), arguments={"include": "stam.*"}, at="include[0]", by_all=True, kept=BODY),
        "no-adapter": Case(
            ("backbone.stem.weight", "pos_embed"),
            arguments={"adapters": ["pos_embed"]},
            at="on_mismatch",
            by_all=True,
            kept=BODY,
        ),
        "too-few": Case(
            ("fills 4 of 6 parameters",), arguments={"min_match": 0.9}, at="min_match", by_all=True, kept=BODY
        ),
    }


CASES = tuple(cases())
BOTH = [(case, way) for case in CASES for way in WAYS]


@dataclass(frozen=True)
class Seen:
    """What one rank saw of an attempt: what it came to, and the bits before and after."""

    told: Told
    before: dict[str, bytes]
    after: dict[str, bytes]
    is_init: bool


def attempt(case: str, way: Way, url: str, folder: Path) -> Seen:
    about = cases()[case]
    set_up(patience=PATIENCE if case == "stalled" else 60)
    rule = {"type": "Pretrained", "checkpoint": f"{url}/{case}/{about.name}", **FITTING, **about.arguments}
    module = Picture(rule)
    before = state(module)
    strategy = StateDDP(process_group_backend="gloo")
    with at_home(folder / case / way):
        found = told(partial(initialise, module, way, strategy=strategy))
    dist.barrier()
    # A checkpoint's error is held until DDP has sent the weights of rank zero.
    after = vars(strategy).get("before", state(module))
    return Seen(found, before, after, bool(getattr(module, "is_init", False)))


def run_cases(url: str, folder: Path) -> list[Seen]:
    torch.manual_seed(100 + rank())
    return [attempt(case, way, url, folder) for case, way in BOTH]


@dataclass(frozen=True)
class Ran:
    """A server, the folder of the caches, and what two ranks saw in processes that lived through all cases."""

    web: Web
    folder: Path
    seen: dict[tuple[str, Way], list[Seen]]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("caches")
    with web_server() as web:
        for name, case in cases(threading.Event()).items():
            for file, answer in case.files.items():
                web.serve(f"/{name}/{file}", answer)
        ranks = run_ranks(2, run_cases, web.url, folder, deadline=110)
        yield Ran(web, folder, {both: list(seen) for both, *seen in zip(BOTH, *ranks, strict=True)})


@pytest.mark.parametrize(("case", "way"), BOTH)
def test_every_rank_raises_the_same(ran: Ran, case: str, way: Way) -> None:
    zero, one = (seen.told for seen in ran.seen[case, way])
    assert (zero.error, zero.message) == (one.error, one.message)
    assert zero.error == "CheckpointError", zero
    assert max(zero.seconds, one.seconds) < PROMPTLY
    about = cases()[case]
    assert zero.message.startswith(f"Picture.init_cfg[1].{about.at}: ")
    for text in about.told:
        assert text.format(url=f"{ran.web.url}/{case}/") in zero.message
    # Where every rank sees it, none is named; what is fetched is looked at by rank zero alone.
    assert zero.message.endswith("[on rank 0]") != about.by_all


@pytest.mark.parametrize(("case", "way"), BOTH)
def test_nothing_is_written(ran: Ran, case: str, way: Way) -> None:
    for seen in ran.seen[case, way]:
        assert seen.after == seen.before
        assert not seen.is_init


@pytest.mark.parametrize("case", CASES)
def test_rank_zero_alone_asks_and_once(ran: Ran, case: str) -> None:
    asked = asking(ran.web, f"/{case}/{cases()[case].name}")
    assert asked == [0] * len(WAYS) * cases()[case].tries


@pytest.mark.parametrize(("case", "way"), BOTH)
def test_what_has_its_name_in_the_cache_is_whole(ran: Ran, case: str, way: Way) -> None:
    about = cases()[case]
    files = {path.name: path.read_bytes() for path in (ran.folder / case / way).rglob("*.safetensors*")}
    kept = {about.name: about.kept} if about.kept else {}
    # Shards are whole as well, but of no use without an index.
    assert {name: body for name, body in files.items() if name not in shards() or name == INDEX} == kept
    assert all(body == shards()[name] for name, body in files.items() if name not in kept)
