from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_init.checkpoint.base import Checkpoint
from lightning_init.checkpoint.broadcast import BroadcastCheckpoint
from lightning_init.checkpoint.formats.recognise import open_checkpoint
from lightning_init.errors import CheckpointError, InitError
from lightning_init.flat import FlatRange, FlatShard
from lightning_init.sharding import boxes
from tests.checkpoint.files import bits, save_safetensors, save_zip, tensors
from tests.distributed.harness import run_ranks

Read = dict[str, tuple[str, tuple[int, ...], bytes]]


def read_all(path: Path) -> Read:
    def open_it() -> Checkpoint:
        assert not dist.is_initialized() or dist.get_rank() == 0
        return open_checkpoint(path)

    with BroadcastCheckpoint(open_it) as checkpoint:
        assert checkpoint.source == str(path)
        found = {key: checkpoint.read(key) for key in checkpoint.entries}
    for key, entry in checkpoint.entries.items():
        assert (tuple(found[key].shape), found[key].dtype, found[key].device.type) == (entry.shape, entry.dtype, "cpu")
    return plain(found)


def plain(found: dict[str, Tensor]) -> Read:
    return {key: (str(tensor.dtype), tuple(tensor.shape), bits(tensor)) for key, tensor in found.items()}


def read_files(*paths: Path) -> list[Read]:
    return [read_all(path) for path in paths]


def load_ranges(path: Path) -> list[list[float]]:
    """What ranks get that hold ranges of elements, as under FSDP1: in one part, in two, none at all."""
    found = []
    with BroadcastCheckpoint(lambda: open_checkpoint(path)) as checkpoint:
        for key, of_ranks in zip(checkpoint.entries, (((0, 3), (3, 12)), ((0, 12), (12, 12))), strict=True):
            first, last = of_ranks[dist.get_rank()]
            here = torch.zeros(last - first)
            held = FlatRange(first, last - first, (0, 1))
            tensor = FlatShard.of(here, held, (3, 4), dist.group.WORLD, torch.device("cpu"))
            checkpoint.load(key, boxes(tensor), torch.device("cpu"))
            found.append(here.tolist())
    return found


class Gone(Checkpoint):
    """A file that cannot be read any more, though it could be opened."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.source, self.entries = checkpoint.source, checkpoint.entries

    def read(self, key: str) -> Tensor:
        raise CheckpointError(f"{key!r} is gone")


def fail_in_every_way(good: Path, bad: Path) -> list[str]:
    tries: list[Callable[[], object]] = [
        lambda: BroadcastCheckpoint(lambda: open_checkpoint(bad)),
        lambda: BroadcastCheckpoint(lambda: Gone(open_checkpoint(good))).read("w0"),
        lambda: BroadcastCheckpoint(lambda: open_checkpoint(good)).read(f"w{dist.get_rank()}"),
    ]
    return [failure(attempt) for attempt in tries]


def failure(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except InitError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def test_in_a_single_process_it_is_the_checkpoint(tmp_path: Path) -> None:
    save_zip(tensors(), tmp_path / "w.pth")
    assert read_all(tmp_path / "w.pth") == plain(tensors())


def test_every_rank_gets_every_bit_and_one_opens_the_file(tmp_path: Path) -> None:
    transposed = {**tensors(), "transposed": tensors()["double"].t(), "conjugate": tensors()["complex"].conj()}
    save_zip(transposed, tmp_path / "w.pth")
    save_safetensors(tensors(), tmp_path / "w.safetensors")
    expected = [plain(transposed), plain(tensors())]
    assert run_ranks(2, read_files, tmp_path / "w.pth", tmp_path / "w.safetensors") == [expected, expected]


def test_ranks_that_hold_different_numbers_of_parts(tmp_path: Path) -> None:
    values = torch.arange(12.0).view(3, 4)
    save_zip({"w": values, "v": values}, tmp_path / "w.pth")
    first, second = run_ranks(2, load_ranges, tmp_path / "w.pth", deadline=30)
    assert first == [[0, 1, 2], list(range(12))]
    assert second == [list(range(3, 12)), []]


def test_what_fails_on_rank_zero_is_raised_on_every_rank(tmp_path: Path) -> None:
    torch.save({"w0": torch.ones(2), "w1": torch.ones(2)}, tmp_path / "good")
    (tmp_path / "bad").write_text("<html></html>", encoding="utf-8")
    outcomes = run_ranks(2, fail_in_every_way, tmp_path / "good", tmp_path / "bad", expect_errors=True)
    for outcome in outcomes:
        assert outcome.value is not None, outcome
        opened, read, keys = outcome.value
        assert opened.startswith("CheckpointError: checkpoint: ")
        assert "a web page" in opened
        assert read.startswith("CheckpointError: 'w0' is gone")
        assert keys.startswith("RankError: ")
        assert "'w0'" in keys
        assert "'w1'" in keys
        assert outcome.seconds < 10
