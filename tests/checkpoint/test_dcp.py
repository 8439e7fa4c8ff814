from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import Metadata

from lightning_init.checkpoint.base import Entry, Reading
from lightning_init.checkpoint.formats.recognise import open_checkpoint
from lightning_init.errors import CheckpointError
from tests.checkpoint.files import bits, tensors
from tests.checkpoint.folders_of_torch import DATA, change, faults, in_chunks, place, save, tensor


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    net = nn.Linear(3, 2)
    adam = torch.optim.Adam(net.parameters())
    net(torch.ones(3)).sum().backward()
    adam.step()
    return net, adam


def test_every_bit_comes_back(tmp_path: Path) -> None:
    saved = tensors()
    # dcp leaves a tensor with holes as it is
    saved["column"] = torch.arange(12.0).view(4, 3)[:, 1]
    save({"state_dict": saved, "epoch": 3}, tmp_path / "saved")
    with open_checkpoint(tmp_path / "saved") as checkpoint:
        assert checkpoint.source == str(tmp_path / "saved")
        assert dict(checkpoint.entries) == {key: Entry(tuple(t.shape), t.dtype) for key, t in saved.items()}
        for key, tensor in saved.items():
            read = checkpoint.read(key)
            assert (read.shape, read.dtype, read.device.type) == (tensor.shape, tensor.dtype, "cpu")
            assert bits(read) == bits(tensor)
        assert checkpoint.notes == ("values that are no tensors were not read: 'epoch'",)
        with pytest.raises(KeyError):
            checkpoint.read("state_dict.half")


def test_contexts_of_the_caller_do_not_count(tmp_path: Path) -> None:
    rows = torch.arange(6.0).view(2, 3)
    in_chunks(tmp_path / "saved", ((0, 0), rows), ((2, 0), -rows), shape=(4, 3))
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"), open_checkpoint(tmp_path / "saved") as checkpoint:
        read = checkpoint.read("w")
    assert (read.device.type, read.dtype) == ("cpu", torch.float32)
    assert read.tolist() == [[0, 1, 2], [3, 4, 5], [0, -1, -2], [-3, -4, -5]]


def test_a_tensor_in_columns_of_several_widths(tmp_path: Path) -> None:
    whole = torch.arange(35.0).view(5, 7)
    parts = [((0, 0), whole[:, :1]), ((0, 1), whole[:2, 1:]), ((2, 1), whole[2:, 1:3]), ((2, 3), whole[2:, 3:])]
    in_chunks(tmp_path / "saved", *((at, part.contiguous()) for at, part in parts), shape=(5, 7))
    with open_checkpoint(tmp_path / "saved") as checkpoint:
        assert checkpoint.read("w").equal(whole)


def test_parts_without_elements_need_no_values(tmp_path: Path) -> None:
    # Where there are more processes than rows, torch notes parts without elements for some, at one place for all.
    row, none = torch.ones(1, 3), torch.ones(0, 3)
    in_chunks(tmp_path / "saved", ((0, 0), row), ((1, 0), none), ((1, 0), none), shape=(1, 3))

    def forget(metadata: Metadata) -> None:
        metadata.storage_data = {index: info for index, info in metadata.storage_data.items() if index.offset[0] == 0}

    change(tmp_path / "saved", forget)
    with open_checkpoint(tmp_path / "saved") as checkpoint:
        assert checkpoint.read("w").tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("content", "reading"),
    [
        (lambda model, _: model, Reading()),
        (lambda model, state: {"state_dict": model, "optimizer_0": state}, Reading()),
        (lambda model, state: {"model": model, "optim": state}, Reading()),
        (lambda model, state: {"app": {"optim": state, "net": model}}, Reading(container="app.net")),
        (lambda model, state: {"model": {"weight": torch.ones(1)}, "model_ema": model}, Reading(ema=True)),
    ],
)
def test_the_weights_are_found_and_nothing_of_the_optimizer(
    tmp_path: Path, content: Callable[[Any, Any], dict[str, Any]], reading: Reading
) -> None:
    net, adam = trained()
    save(content(net.state_dict(), adam.state_dict()), tmp_path / "saved")
    with open_checkpoint(tmp_path / "saved", reading) as checkpoint:
        assert {key: bits(checkpoint.read(key)) for key in checkpoint.entries} == {
            key: bits(value) for key, value in net.state_dict().items()
        }


def test_an_optimizer_alone_is_no_state_dict(tmp_path: Path) -> None:
    save({"optimizer_0": trained()[1].state_dict()}, tmp_path / "saved")
    (told,) = faults(tmp_path / "saved")
    assert "has no tensors at its top level or in one of 'state_dict', 'model'" in told
    (told,) = faults(tmp_path / "saved", Reading(container="model"))
    assert "has no such part" in told


def test_a_folder_saved_without_paths(tmp_path: Path) -> None:
    save({"w": torch.ones(2)}, tmp_path / "saved")
    change(tmp_path / "saved", lambda metadata: setattr(metadata, "planner_data", None))
    with open_checkpoint(tmp_path / "saved") as checkpoint:
        assert checkpoint.read("w").tolist() == [1, 1]


def test_two_values_at_one_place(tmp_path: Path) -> None:
    save({"w": torch.ones(2), "v": torch.ones(2)}, tmp_path / "saved")
    change(tmp_path / "saved", lambda metadata: metadata.planner_data.update(v=("w", "x")))
    assert faults(tmp_path / "saved") == [
        f"{str(tmp_path / 'saved')!r} has 'v' at a place where something else is too; fetch or save it again"
    ]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../other/__0_0.distcp", "leaves the folder by '..'"),
        ("x/../../other/__0_0.distcp", "leaves the folder by '..'"),
        ("/etc/passwd", "is an absolute path"),
        ("..\\other", "has a backslash in it"),
        ("", "is empty"),
    ],
)
def test_files_outside_the_folder_are_not_read(tmp_path: Path, name: str, why: str) -> None:
    save({"w": torch.ones(2)}, tmp_path / "other")
    save({"w": torch.ones(2)}, tmp_path / "saved")
    change(tmp_path / "saved", lambda metadata: setattr(place(metadata, "w"), "relative_path", name))
    folder = str(tmp_path / "saved")
    assert faults(tmp_path / "saved") == [f"{folder!r} does not hold 'w' in full: the name of the file {name!r} {why}"]


def test_not_even_where_they_hold_no_tensor(tmp_path: Path) -> None:
    save({"w": torch.ones(2), "epoch": 3}, tmp_path / "saved")
    change(tmp_path / "saved", lambda metadata: setattr(place(metadata, "epoch"), "relative_path", "../x"))
    (told,) = faults(tmp_path / "saved")
    assert "does not hold 'epoch' in full: the name of the file '../x' leaves the folder" in told


def test_links_may_not_lead_out(tmp_path: Path) -> None:
    folder = save({"w": torch.ones(2)}, tmp_path / "saved")
    (folder / DATA).rename(folder / "inside")
    (folder / DATA).symlink_to("inside")
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.read("w").tolist() == [1, 1]
    (folder / "inside").rename(tmp_path / "outside")
    (folder / DATA).unlink()
    (folder / DATA).symlink_to("../outside")
    assert faults(folder) == [
        f"{str(folder)!r} does not hold 'w' in full: the file '{DATA}' is a link that leads out of the folder"
    ]


def test_a_missing_and_a_short_file_are_told_with_all_their_keys(tmp_path: Path) -> None:
    folder = save({"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2)}, tmp_path / "saved")
    infos: dict[str, Any] = {}

    def move(metadata: Metadata) -> None:
        infos.update({key: place(metadata, key) for key in "abc"})
        infos["a"].relative_path = "gone"

    change(folder, move)
    last = max("bc", key=lambda key: infos[key].offset)
    size = infos[last].offset + infos[last].length
    (folder / DATA).write_bytes((folder / DATA).read_bytes()[: size - 1])
    cut = f"the file '{DATA}' is cut off: it has {size - 1} bytes instead of {size} or more"
    assert sorted(faults(folder)) == [
        f"{str(folder)!r} does not hold 'a' in full: the file 'gone' is missing",
        f"{str(folder)!r} does not hold {last!r} in full: {cut}",
    ]


ROWS = torch.arange(6.0).view(2, 3)


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (((1, 0), ROWS), "the chunks at (0, 0) and (1, 0) overlap"),
        (((3, 0), ROWS), "the chunk of (2, 3) at (3, 0) is not inside the shape (4, 3)"),
        (((2, 0, 0), ROWS), "the chunk of (2, 3) at (2, 0, 0) is not inside the shape (4, 3)"),
        (((2, 1), ROWS[:, 1:].contiguous()), "chunks are missing: there are 10 of 12 elements"),
    ],
)
def test_chunks_that_are_not_the_whole_tensor(
    tmp_path: Path, second: tuple[tuple[int, ...], Tensor], told: str
) -> None:
    folder = in_chunks(tmp_path / "saved", ((0, 0), ROWS), second, shape=(4, 3))
    assert faults(folder) == [f"{str(folder)!r} does not hold 'w' in full: {told}"]


def test_a_scalar_in_two_chunks(tmp_path: Path) -> None:
    folder = save({"w": torch.tensor(1.0)}, tmp_path / "saved")

    def double(metadata: Metadata) -> None:
        chunks = tensor(metadata, "w").chunks
        chunks.append(chunks[0])

    change(folder, double)
    (told,) = faults(folder)
    assert "the chunks at () and () overlap" in told


def test_a_chunk_that_is_stored_nowhere_or_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save({"w": torch.ones(2)}, tmp_path / "saved")

    def twice(metadata: Metadata) -> None:
        ((index, info),) = metadata.storage_data.items()
        # Such indices are equal to torch, which keeps one of them.
        monkeypatch.setattr(type(index), "__hash__", object.__hash__)
        monkeypatch.setattr(type(index), "__eq__", object.__eq__)
        metadata.storage_data = {index: info, type(index)(index.fqn, index.offset, 1): info}

    change(folder, twice)
    monkeypatch.undo()
    assert faults(folder) == [
        f"{str(folder)!r} does not hold 'w' in full: the chunk at (0,) is stored 2 times instead of once"
    ]
    change(folder, lambda metadata: metadata.storage_data.clear())
    assert faults(folder) == [
        f"{str(folder)!r} does not hold 'w' in full: the chunk at (0,) is stored 0 times instead of once"
    ]


def test_chunks_of_an_extension(tmp_path: Path) -> None:
    folder = save({"w": torch.ones(2)}, tmp_path / "saved")
    change(folder, lambda metadata: setattr(place(metadata, "w"), "transform_descriptors", ["stream.zstd/1"]))
    why = "the chunk at (0,) is stored as stream.zstd/1, which cannot be read here; save it without extensions"
    assert faults(folder) == [f"{str(folder)!r} does not hold 'w' in full: {why}"]


def test_a_tensor_larger_than_its_file_takes_no_memory(tmp_path: Path) -> None:
    folder = save({"w": torch.ones(2)}, tmp_path / "saved")

    def grow(metadata: Metadata) -> None:
        entry = tensor(metadata, "w")
        entry.size = entry.chunks[0].sizes = torch.Size([2**60])

    change(folder, grow)
    (told,) = faults(folder)
    assert f"but its values take {2**62}" in told


def test_many_faults_are_counted(tmp_path: Path) -> None:
    folder = save({f"w{i}": torch.ones(2) for i in range(30)}, tmp_path / "saved")

    def scatter(metadata: Metadata) -> None:
        for i in range(30):
            place(metadata, f"w{i}").relative_path = f"gone{i}"

    change(folder, scatter)
    told = faults(folder)
    assert len(told) == 21
    assert told[-1] == f"{str(folder)!r} has 10 more faults of this kind"


def read_fault(folder: Path) -> str:
    with open_checkpoint(folder) as checkpoint, pytest.raises(CheckpointError) as caught:
        checkpoint.read("w")
    return str(caught.value)


def test_values_that_are_not_as_the_metadata_says(tmp_path: Path) -> None:
    folder = save({"w": torch.ones(4, 2)}, tmp_path / "saved")
    before = f"checkpoint: {str(folder)!r} cannot give 'w': its chunk at (0, 0) in '{DATA}'"
    good = (folder / DATA).read_bytes()
    torch.save(torch.ones(2, 4), folder / DATA)
    change(folder, lambda metadata: setattr(place(metadata, "w"), "length", (folder / DATA).stat().st_size))
    assert read_fault(folder) == (
        f"{before} has (2, 4), torch.float32, where the metadata has (4, 2), torch.float32; "
        f"fetch or save the folder again"
    )
    torch.save({"w": torch.ones(4, 2)}, folder / DATA)
    change(folder, lambda metadata: setattr(place(metadata, "w"), "length", (folder / DATA).stat().st_size))
    assert read_fault(folder) == f"{before} is no plain dense tensor, but a dict; save the folder again"
    (folder / DATA).write_bytes(good[:200] + bytes(len(good) * 2))
    assert read_fault(folder).startswith(f"{before} is damaged (")


def test_values_that_would_run_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return os.system, (f"touch {tmp_path / 'proof'}",)

    # What torch goes by where nothing else is said.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    folder = save({"w": torch.ones(2), "epoch": 3}, tmp_path / "saved")
    for name in ("w", "epoch"):
        torch.save(Attack(), folder / name)

    def swap(metadata: Metadata) -> None:
        for name in ("w", "epoch"):
            place(metadata, name).__init__(name, 0, (folder / name).stat().st_size)  # type: ignore[misc]

    change(folder, swap)
    assert f" is no plain dense tensor, but a {os.system.__module__}.system; save " in read_fault(folder)
    assert not (tmp_path / "proof").exists()


def repacked(folder: Path, how: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], object]) -> Path:
    """Writes the chunk of ``w`` anew, record by record."""
    with zipfile.ZipFile(folder / DATA) as archive, zipfile.ZipFile(folder / "new", "w") as new:
        for info in archive.infolist():
            how(new, info, archive.read(info))
    size = (folder / "new").stat().st_size
    change(folder, lambda metadata: place(metadata, "w").__init__("new", 0, size))  # type: ignore[misc]
    return folder


def test_values_that_do_not_lie_as_they_are(tmp_path: Path) -> None:
    def compress(new: zipfile.ZipFile, info: zipfile.ZipInfo, content: bytes) -> None:
        new.writestr(info.filename, content, zipfile.ZIP_DEFLATED)

    def swap(new: zipfile.ZipFile, info: zipfile.ZipInfo, content: bytes) -> None:
        new.writestr(info.filename, b"big" if info.filename.endswith("byteorder") else content)

    # Long enough to be as long as its values are when it is compressed.
    noise = torch.randn(64, generator=torch.Generator().manual_seed(0))
    folder = repacked(save({"w": noise}, tmp_path / "compressed"), compress)
    assert " is compressed, which cannot be read here" in read_fault(folder)
    folder = repacked(save({"w": noise}, tmp_path / "swapped"), swap)
    assert " is in the byte order of another kind of machine, which cannot be read here" in read_fault(folder)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux alone tells anonymous memory")
def test_one_tensor_at_a_time_is_in_memory(tmp_path: Path) -> None:
    mib = 2**18
    folder = tmp_path / "saved"
    save({f"w{i}": torch.full((32 * mib,), float(i)) for i in range(4)}, folder)
    halves = torch.ones(16, mib)
    in_chunks(tmp_path / "halves", ((0, 0), halves), ((16, 0), halves), shape=(32, mib))
    del halves
    assert peak_mib(lambda: open_checkpoint(folder).close()) < 4
    with open_checkpoint(folder) as checkpoint:
        assert peak_mib(lambda: [checkpoint.read(key)[-1].item() for key in checkpoint.entries]) < 40
    with open_checkpoint(tmp_path / "halves") as checkpoint:
        assert peak_mib(lambda: checkpoint.read("w")) < 32 + 16 + 8


def peak_mib(run: Callable[[], object]) -> float:
    before = anonymous_mib()
    seen = [before]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(anonymous_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return max(seen) - before


def anonymous_mib() -> float:
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024
