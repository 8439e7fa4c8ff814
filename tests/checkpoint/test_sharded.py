from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from lightning_init.checkpoint.base import Checkpoint, Entry, Reading
from lightning_init.checkpoint.formats.recognise import open_checkpoint
from lightning_init.checkpoint.formats.safetensors_files import SafetensorsCheckpoint
from lightning_init.checkpoint.formats.sharded import ShardedCheckpoint
from lightning_init.errors import CheckpointError
from tests.checkpoint.files import Save, bits, save_legacy, save_safetensors, save_zip, tensors
from tests.checkpoint.memory import needs_proc, read_one_by_one

EVERY_KIND = pytest.mark.parametrize("save", [save_zip, save_legacy, save_safetensors])

INDEX = "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def write_index(folder: Path, weight_map: object) -> Path:
    path = folder / INDEX
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


def write(folder: Path, save: Save = save_safetensors, weights: Mapping[str, Tensor] | None = None) -> Path:
    """Two shards, the keys of the index in another order than those of the shards."""
    weights = weights or {"a": torch.ones(2), "b": torch.zeros(3), "c": torch.full((1,), 2.0)}
    parts: dict[str, dict[str, Tensor]] = {ONE: {}, TWO: {}}
    for number, (key, tensor) in enumerate(weights.items()):
        parts[(ONE, TWO)[number % 2]][key] = tensor
    for name, part in parts.items():
        save(part, folder / name)
    return write_index(folder, {key: name for key in reversed(list(weights)) for name in parts if key in parts[name]})


def faults(path: Path) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert {fault.where for fault in caught.value.faults} == {"checkpoint"}
    return [fault.what for fault in caught.value.faults]


def told(path: Path) -> str:
    """The one fault, which must begin with the name of the index."""
    (what,) = faults(path)
    assert str(path) in what
    return what.replace(repr(str(path)), "INDEX")


@EVERY_KIND
def test_every_bit_comes_back_in_the_order_of_the_index(tmp_path: Path, save: Save) -> None:
    saved = tensors()
    if save is save_legacy:
        # torch cannot read these of its own legacy files
        del saved["eight"]
    path = write(tmp_path, save, saved)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.source == str(path)
        assert list(checkpoint.entries) == list(reversed(saved))
        assert dict(checkpoint.entries) == {key: Entry(tuple(t.shape), t.dtype) for key, t in saved.items()}
        assert {key: bits(checkpoint.read(key)) for key in saved} == {key: bits(t) for key, t in saved.items()}
        assert checkpoint.notes == ()
        with pytest.raises(KeyError):
            checkpoint.read("absent")


def bert() -> BertModel:
    torch.manual_seed(3)
    return BertModel(
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    )


@pytest.mark.parametrize("ask", [lambda folder: folder / INDEX, lambda folder: folder])
def test_what_transformers_saved_in_shards(tmp_path: Path, ask: Callable[[Path], Path]) -> None:
    model = bert()
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 3
    with open_checkpoint(ask(tmp_path)) as checkpoint:
        assert checkpoint.source == str(tmp_path / INDEX)
        read = {key: bits(checkpoint.read(key)) for key in checkpoint.entries}
    assert read == {key: bits(tensor) for key, tensor in model.state_dict().items()}


def test_a_large_index_whose_map_comes_late(tmp_path: Path) -> None:
    path = write(tmp_path)
    content = json.loads(path.read_text())
    path.write_text("\ufeff \n" + json.dumps({"metadata": {"note": "x" * 5000}, **content}, indent=1))
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.entries) == ["c", "b", "a"]


def test_the_name_of_the_index_does_not_matter_and_shards_may_lie_below(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    save_safetensors({"a": torch.ones(2)}, tmp_path / "parts" / "one")
    path = write_index(tmp_path, {"a": "parts/one"}).rename(tmp_path / "weights.txt")
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.read("a").tolist() == [1, 1]


def test_what_the_index_does_not_list_is_taken_too(tmp_path: Path) -> None:
    save_safetensors({"a": torch.ones(2), "extra": torch.zeros(1)}, tmp_path / ONE)
    with open_checkpoint(write_index(tmp_path, {"a": ONE})) as checkpoint:
        assert list(checkpoint.entries) == ["a", "extra"]
        assert checkpoint.read("extra").tolist() == [0]
        (note,) = checkpoint.notes
    assert note == "its shards hold keys that the index does not list, taken as well: 'extra'"


class Told(SafetensorsCheckpoint):
    """A shard with something to say."""

    notes = ("read with care",)


def test_what_shards_say_is_said_once_and_they_get_what_is_wanted(tmp_path: Path) -> None:
    asked: list[tuple[str, Reading]] = []
    closed: list[str] = []

    def open_shard(path: Path, reading: Reading) -> Checkpoint:
        asked.append((path.name, reading))
        shard = Told(path, reading)
        shard.close = lambda: closed.append(path.name)  # type: ignore[method-assign]
        return shard

    wanted = Reading(safe_globals=(Told,))
    with ShardedCheckpoint(write(tmp_path), wanted, open_shard=open_shard) as checkpoint:
        assert checkpoint.notes == ("read with care",)
        assert sorted(asked) == [(ONE, wanted), (TWO, wanted)]
        assert closed == []
    assert sorted(closed) == [ONE, TWO]


@pytest.mark.parametrize(("wanted", "where"), [(Reading(container="ema"), "container"), (Reading(ema=True), "ema")])
def test_shards_have_no_containers(tmp_path: Path, wanted: Reading, where: str) -> None:
    path = write(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, wanted)
    assert str(caught.value) == (
        f"{where}: '{path}' is an index of shards, whose tensors are in no container; choose among its keys with "
        f"prefix=..."
    )


def test_shards_are_let_go_when_one_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / ONE).unlink()
    closed: list[str] = []

    def open_shard(path: Path, reading: Reading) -> Checkpoint:
        shard = SafetensorsCheckpoint(path, reading)
        shard.close = lambda: closed.append(path.name)  # type: ignore[method-assign]
        return shard

    with pytest.raises(CheckpointError):
        ShardedCheckpoint(path, Reading(), open_shard=open_shard)
    assert closed == [TWO]


def test_a_missing_shard_tells_what_it_should_hold(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / ONE).unlink()
    assert told(path) == f"the index INDEX names the shard '{ONE}', which is missing; it should hold 'c', 'a'"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda shard: shard.touch(), "is an empty file"),
        (lambda shard: shard.mkdir(), "is no regular file"),
        (os.mkfifo, "is no regular file"),
        (lambda shard: shard.symlink_to("gone"), "is a link to nothing"),
        (lambda shard: shard.symlink_to(ONE), "cannot be looked at (Symlink loop"),
        (lambda shard: shard.write_text('{"weight_map": {"a": "x"}}'), "is an index itself, not a shard"),
    ],
)
def test_a_shard_that_cannot_be_one(tmp_path: Path, make: Callable[[Path], object], reason: str) -> None:
    path = write(tmp_path)
    (tmp_path / ONE).unlink()
    make(tmp_path / ONE)
    assert told(path).startswith(f"the index INDEX names the shard '{ONE}', which {reason}")


def test_an_index_that_names_itself(tmp_path: Path) -> None:
    what = told(write_index(tmp_path, {"a": INDEX}))
    assert f"names the shard '{INDEX}', which is an index itself, not a shard" in what


def test_a_damaged_shard(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / TWO).write_bytes((tmp_path / TWO).read_bytes()[:-1])
    (what,) = faults(path)
    assert what.startswith(f"'{tmp_path / TWO}' is a safetensors file that is cut off or damaged")


def test_a_shard_that_lacks_a_key(tmp_path: Path) -> None:
    path = write(tmp_path)
    save_safetensors({"a": torch.ones(2)}, tmp_path / ONE)
    assert told(path) == f"the index INDEX lists 'c' for the shard '{ONE}', which lacks them"


@pytest.mark.parametrize("key", ["a", "unlisted"])
def test_a_key_in_two_shards(tmp_path: Path, key: str) -> None:
    save_safetensors({"a": torch.ones(2), key: torch.ones(2)}, tmp_path / ONE)
    save_safetensors({"b": torch.ones(2), key: torch.zeros(2)}, tmp_path / TWO)
    what = told(write_index(tmp_path, {"a": ONE, "b": TWO}))
    assert what == f"the index INDEX names two shards that both hold '{key}': '{ONE}' and '{TWO}'"


@pytest.mark.parametrize(("second", "where"), [(ONE, f"both times in '{ONE}'"), (TWO, f"in '{ONE}' and '{TWO}'")])
def test_a_key_listed_twice(tmp_path: Path, second: str, where: str) -> None:
    write(tmp_path)
    path = tmp_path / INDEX
    path.write_text(f'{{"weight_map": {{"a": "{ONE}", "b": "{TWO}", "a": "{second}"}}}}')
    assert told(path) == f"the index INDEX lists 'a' twice, {where}"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../w.safetensors", "leaves the folder by '..'"),
        ("a/../../w.safetensors", "leaves the folder by '..'"),
        ("..", "leaves the folder by '..'"),
        ("/w.safetensors", "is an absolute path"),
        ("C:/w.safetensors", "is an absolute path"),
        ("c:w.safetensors", "is an absolute path"),
        ("..\\w.safetensors", "has a backslash in it"),
        ("w.safetensors\0", "has characters in it that cannot be printed"),
        ("w\n.safetensors", "has characters in it that cannot be printed"),
        ("", "is empty"),
        (".", "has an empty part or '.' in it"),
        ("a//w.safetensors", "has an empty part or '.' in it"),
        ("./w.safetensors", "has an empty part or '.' in it"),
    ],
)
def test_a_name_that_is_no_plain_path_in_the_folder(tmp_path: Path, name: str, reason: str) -> None:
    save_safetensors({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    (tmp_path / "inner").mkdir()
    what = told(write_index(tmp_path / "inner", {"a": name}))
    assert (
        what == f"the index INDEX names the shard {name!r}, which {reason}; a shard must lie in the folder of its index"
    )


def test_a_link_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = write(tmp_path / "inner")
    (tmp_path / "inner" / ONE).rename(tmp_path / "outside")
    (tmp_path / "inner" / ONE).symlink_to("../outside")
    what = told(path)
    assert f"names the shard '{ONE}', which is a link that leads out of the folder, to '{tmp_path / 'outside'}'" in what


def test_a_link_in_the_folder_and_one_beside_the_real_index(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "links").mkdir()
    write(tmp_path / "real")
    (tmp_path / "real" / ONE).rename(tmp_path / "real" / "other")
    (tmp_path / "real" / ONE).symlink_to("other")
    for name in (INDEX, ONE, TWO):
        (tmp_path / "links" / name).symlink_to(tmp_path / "real" / name)
    for folder in ("real", "links"):
        with open_checkpoint(tmp_path / folder / INDEX) as checkpoint:
            assert list(checkpoint.entries) == ["c", "b", "a"]


def test_a_snapshot_of_a_hugging_face_cache(tmp_path: Path) -> None:
    """Its entries are links to blobs of the repository, and these may be links to blobs of the whole cache."""
    repo = tmp_path / "models--org--name"
    snapshot = repo / "snapshots" / "0123"
    for folder in (snapshot, repo / "blobs", tmp_path / "blobs" / "ab"):
        folder.mkdir(parents=True)
    write(snapshot)
    for name, blob in ((INDEX, "1"), (ONE, "2")):
        (snapshot / name).rename(repo / "blobs" / blob)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    (snapshot / TWO).rename(tmp_path / "blobs" / "ab" / "3")
    (repo / "blobs" / "3").symlink_to("../../blobs/ab/3")
    (snapshot / TWO).symlink_to("../../blobs/3")
    for path in (snapshot, snapshot / INDEX):
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.read("a").tolist() == [1, 1]
            assert checkpoint.read("b").tolist() == [0, 0, 0]
    (repo / "blobs" / "3").unlink()
    (repo / "blobs" / "3").symlink_to("../../outside")
    (tmp_path / "blobs" / "ab" / "3").rename(tmp_path / "outside")
    assert f"leads out of the folder, to '{tmp_path / 'outside'}'" in told(snapshot / INDEX)


def test_all_faults_are_told_together(tmp_path: Path) -> None:
    save_safetensors({"a": torch.ones(2), "d": torch.ones(1)}, tmp_path / ONE)
    save_safetensors({"b": torch.ones(2), "d": torch.ones(1)}, tmp_path / TWO)
    (tmp_path / "bad").write_bytes(b"\x89HDF")
    path = tmp_path / INDEX
    path.write_text(
        f'{{"weight_map": {{"a": "{ONE}", "a": "{TWO}", "b": "{TWO}", "c": "{TWO}", "d": "{ONE}",'
        f'"e": "../e", "f": "gone", "g": "bad"}}}}'
    )
    patterns = [
        r"names the shard '\.\./e', which leaves the folder",
        r"lists 'a' twice",
        r"names the shard 'gone', which is missing; it should hold 'f'",
        r"bad' is an HDF5 file",
        rf"lists 'c' for the shard '{TWO}', which lacks them",
        rf"two shards that both hold 'd': '{ONE}' and '{TWO}'",
    ]
    found = faults(path)
    assert len(found) == len(patterns)
    for pattern, what in zip(patterns, found, strict=True):
        assert re.search(pattern, what)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "INDEX starts as an index of shards does, but is not JSON (Expecting property name"),
        ('{"weight_map": {"a": "x"}} trailing', "INDEX starts as an index of shards does, but is not JSON (Extra data"),
        ('{"a": "\xff"}', "INDEX starts as an index of shards does, but is not JSON ('utf-8' codec"),
        ('{"a":' * 100_000, "INDEX starts as an index of shards does, but is not JSON ("),
        ('{"hidden_size": 3}', "INDEX is JSON without a 'weight_map', so it is no index of shards"),
        ('{"weight_map": {"a": "x"}, "weight_map": {}}', "the index INDEX has 2 entries 'weight_map'"),
        ('{"weight_map": ["a"]}', "the 'weight_map' of INDEX must give the file of every key, got"),
        ('{"weight_map": null}', "the 'weight_map' of INDEX must give the file of every key, got 'None'"),
        ('{"weight_map": {}}', "the 'weight_map' of INDEX is empty: it names no tensor"),
        ('{"weight_map": {"a": 3}}', "the index INDEX must name a file for every key, but has 3 for 'a'"),
        ('{"weight_map": {"a": ["x"]}}', "the index INDEX must name a file for every key, but has ['x'] for 'a'"),
    ],
)
def test_an_index_that_is_none(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / INDEX
    path.write_bytes(content.encode("latin-1"))
    assert told(path).startswith(reason)


def test_json_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / INDEX
    with path.open("wb") as file:
        file.write(b"{")
        file.truncate(10**12)
    assert told(path) == "INDEX starts as JSON does, but is too large for an index of shards; name a checkpoint"


@needs_proc
def test_memory_is_that_of_the_largest_tensor(tmp_path: Path) -> None:
    paths = []
    for save in (save_zip, save_safetensors):
        folder = tmp_path / save.__name__
        folder.mkdir()
        weight_map: dict[str, str] = {}
        for number in range(8):
            save({f"{number}.{part}": torch.full((2**20,), float(part)) for part in range(2)}, folder / f"{number}")
            weight_map |= {f"{number}.{part}": f"{number}" for part in range(2)}
        paths.append(write_index(folder, weight_map))
    # The largest tensor has 4 MiB, all of them together 64.
    for count, most, total in read_one_by_one(write(tmp_path), paths):
        assert (count, total) == (16, 8 * 2**20)
        assert most < 4 + 4
