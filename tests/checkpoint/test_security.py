from __future__ import annotations

import argparse
import builtins
import copyreg
import importlib
import operator
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_init.checkpoint.base import Reading
from lightning_init.checkpoint.formats.recognise import open_checkpoint
from tests.checkpoint.files import Save, save_legacy, save_zip
from tests.checkpoint.pickled import Attack, Foreign, Opened, legacy, refusal, tensor, write_zip

EVERY_PICKLE = pytest.mark.parametrize("save", [save_zip, save_legacy])

VALUES = b"\0\0\x80\x3f" * 4


@pytest.fixture
def proof(tmp_path: Path) -> Iterator[Path]:
    """What an attack would write."""
    path = tmp_path / "proof"
    yield path
    assert not path.exists()


class Call:
    """Calls anything when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.pickled = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.pickled


class Trap:
    """Makes a file in every way that a class has to notice what is done to it."""

    def __init__(self, proof: str) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return Trap, (self.proof,), {"proof": self.proof}, iter([1]), iter([("k", 2)])

    def touch(self, *_: object) -> Any:
        Path(self.proof).touch()

    __setstate__ = append = extend = __setitem__ = __call__ = __hash__ = touch


def read_anyway(path: Path) -> tuple[str, ...]:
    """Reads the tensor that is beside an attack."""
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.read("w").tolist() == [1, 1]
        return checkpoint.notes


@EVERY_PICKLE
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("nested", [False, True])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, save: Save, protocol: int, nested: bool) -> None:
    if protocol < 2 and save is save_legacy:
        pytest.skip("such a file is text to whom it is handed")
    proof = tmp_path / "proof"
    attack = Attack(proof)
    kept = {"state_dict": {"w": torch.ones(2), "deep": [{"x": attack}]}} if nested and protocol else attack
    saved = tmp_path / "saved.pth"
    if protocol:
        torch.save(kept, saved, pickle_protocol=protocol, _use_new_zipfile_serialization=save is save_zip)
    else:
        # torch writes none of these, since its names of storages are no text.
        write_zip(saved, pickle.dumps(attack, protocol=0))
    told = "; ".join(read_anyway(saved)) if nested and protocol else refusal(saved)
    assert "posix.system" in told
    assert "nothing was run" in told or told.endswith("mind that posix.system can make a file run anything")
    refusal(saved, safe_globals=(os.system,))
    if protocol > 1:
        (tmp_path / "dumped.pth").write_bytes(pickle.dumps(attack, protocol=protocol))
        told = refusal(tmp_path / "dumped.pth")
        assert "a pickle that torch.save did not write" in told
        assert "names posix.system, of which nothing was run" in told
    assert not proof.exists()
    # The attack works where it is let: what is above shows something.
    pickle.loads(pickle.dumps(attack))  # noqa: S301 - our own
    assert proof.exists()


@EVERY_PICKLE
@pytest.mark.parametrize("protocol", [2, 4])
def test_whatever_a_file_names_is_not_called(tmp_path: Path, proof: Path, save: Save, protocol: int) -> None:
    code = f"open({str(proof)!r}, 'w').close()"
    innocent = tmp_path / "innocent.pth"
    torch.save({"w": torch.ones(2)}, innocent)
    calls = {
        "builtins.eval": Call(eval, code),
        "builtins.exec": Call(exec, code),
        "io.open": Call(open, str(proof), "w"),
        "builtins.__import__": Call(builtins.__import__, "antigravity"),
        "builtins.getattr": Call(getattr, Call(importlib.import_module, "os"), "system"),
        "importlib.import_module": Call(importlib.import_module, "this"),
        "operator.methodcaller": Call(operator.methodcaller, "touch"),
        "posix.system": Call(os.system, f"touch '{proof}'"),
        "subprocess.check_call": Call(subprocess.check_call, ["touch", str(proof)]),
        "torch.jit._serialization.load": Call(torch.jit.load, str(innocent)),
        "torch.serialization.load": Call(torch.load, str(innocent)),
        "torch.storage._load_from_bytes": Call(torch.storage._load_from_bytes, innocent.read_bytes()),
    }
    for name, call in calls.items():
        path = tmp_path / f"{name}.pth"
        content = {"w": torch.ones(2), "x": call, "y": [{"z": call}]}
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=save is save_zip)
        assert name in "".join(read_anyway(path))
    assert "this" not in sys.modules
    assert "antigravity" not in sys.modules


@EVERY_PICKLE
def test_no_method_of_a_class_is_run(tmp_path: Path, proof: Path, save: Save) -> None:
    save({"w": torch.ones(2), "x": Trap(str(proof)), "y": Opened()}, tmp_path / "w.pth")
    assert not proof.exists()
    (note,) = read_anyway(tmp_path / "w.pth")
    assert note == f"other things than tensors were left unread: {__name__}.Trap, {Opened.__module__}.Opened"
    Trap(str(tmp_path / "made")).append()
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "operations",
    [
        pytest.param(b"c{module}\nx\n)R", id="GLOBAL"),
        pytest.param(b"(i{module}\nx\n", id="INST"),
        pytest.param(b"(c{module}\nx\no", id="OBJ"),
        pytest.param(b"c{module}\nx\n)\x81", id="NEWOBJ"),
        pytest.param(b"c{module}\nx\n)}\x92", id="NEWOBJ_EX"),
        pytest.param(b"X\x08\0\0\0sentinelX\x01\0\0\0x\x93)R", id="STACK_GLOBAL"),
        pytest.param(b"ccopyreg\n__newobj__\n(c{module}\nx\ntR", id="__newobj__"),
        pytest.param(b"ccopy_reg\n_reconstructor\n(c{module}\nx\nc__builtin__\nobject\nNtR}b", id="_reconstructor"),
        pytest.param(b"ctorch._tensor\n_rebuild_from_type_v2\n(c{module}\nx\nc{module}\ny\n)NtR", id="from_type"),
        pytest.param(b"(X\x06\0\0\0modulec{module}\nx\nNNtQ", id="BINPERSID"),
    ],
)
def test_no_module_that_a_file_names_is_imported(
    tmp_path: Path, proof: Path, monkeypatch: pytest.MonkeyPatch, operations: bytes
) -> None:
    (tmp_path / "sentinel.py").write_text(f"open({str(proof)!r}, 'w').close()\nx = y = print\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    data = b"\x80\x02}(X\x01\0\0\0w" + tensor() + b"X\x01\0\0\0x" + operations.replace(b"{module}", b"sentinel") + b"u."
    write_zip(tmp_path / "w.pth", data, {"data/0": VALUES})
    with open_checkpoint(tmp_path / "w.pth") as checkpoint:
        assert checkpoint.read("w").tolist() == [1] * 4
        assert "sentinel.x" in checkpoint.notes[0]
    assert "sentinel" not in sys.modules


@pytest.mark.parametrize("number", [5, 300, 70000])
def test_registered_extensions_are_not_looked_up(tmp_path: Path, proof: Path, number: int) -> None:
    copyreg.add_extension("os", "system", number)
    # Python keeps what it has found once, and asks nobody any more.
    copyreg._extension_cache[number] = os.system  # type: ignore[attr-defined]
    try:
        command = pickle.dumps((f"touch '{proof}'",), protocol=2)[2:-1]
        write_zip(tmp_path / "w.pth", b"\x80\x02" + extension(number) + command + b"R.")
        assert f"it holds a whole copyreg.extension {number}, of which nothing was run" in refusal(tmp_path / "w.pth")
    finally:
        copyreg.remove_extension("os", "system", number)
        copyreg._extension_cache.pop(number, None)  # type: ignore[attr-defined]


def extension(number: int) -> bytes:
    if number < 2**8:
        return b"\x82" + number.to_bytes(1, "little")
    return b"\x83" + number.to_bytes(2, "little") if number < 2**16 else b"\x84" + number.to_bytes(4, "little")


def test_what_stands_for_torch_cannot_be_changed(tmp_path: Path) -> None:
    # BUILD would set attributes of what is there, and later files would find them.
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    poison = b"N}X\x08\0\0\0__code__X\x01\0\0\0xs\x86b0"
    items = b"".join(
        name + b"(X\x01\0\0\0kX\x01\0\0\0vu" + poison for name in (rebuild, b"ccollections\nOrderedDict\n")
    )
    data = b"\x80\x02" + items + b"ctorch\nfloat32\n}b0}(X\x01\0\0\0w" + tensor() + b"u."
    write_zip(tmp_path / "w.pth", data, {"data/0": VALUES})
    for _ in range(2):
        with open_checkpoint(tmp_path / "w.pth") as checkpoint:
            assert checkpoint.read("w").tolist() == [1] * 4
            assert checkpoint.notes == ()


def test_numpy_in_a_file_is_left_unread(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "a": np.ones(3), "s": np.float64(2)}, tmp_path / "w.pth")
    (note,) = read_anyway(tmp_path / "w.pth")
    assert "numpy._core.multiarray._reconstruct" in note


def test_torch_is_not_asked_for_more_by_its_environment(
    tmp_path: Path, proof: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"w": torch.ones(2), "s": torch.eye(2).to_sparse(), "x": Attack(proof)}, tmp_path / "w.pth")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert "was not run" in refusal(tmp_path / "w.pth")


@EVERY_PICKLE
def test_other_classes_are_allowed_by_name(tmp_path: Path, save: Save) -> None:
    path = tmp_path / "w.ckpt"
    allowed = set(torch.serialization.get_safe_globals())
    save({"state_dict": {"w": torch.ones(2)}, "args": argparse.Namespace(lr=0.1), "meta": Foreign()}, path)
    told = refusal(path, safe_globals=(argparse.Namespace,))
    assert f"{Foreign.__module__}.Foreign" in told
    assert told.endswith("save module.state_dict() alone; or, if you trust the file, pass safe_globals=[Foreign]")
    with open_checkpoint(path, Reading(safe_globals=(argparse.Namespace, Foreign))) as checkpoint:
        assert checkpoint.read("w").tolist() == [1, 1]
        assert checkpoint.notes == ()
    assert set(torch.serialization.get_safe_globals()) == allowed
    (note,) = read_anyway(path)
    assert note == f"other things than tensors were left unread: argparse.Namespace, {Foreign.__module__}.Foreign"


def test_a_class_may_be_allowed_under_another_path(tmp_path: Path) -> None:
    path = tmp_path / "w.ckpt"
    torch.save({"w": torch.ones(2), "meta": Foreign()}, path)
    told = refusal(path, safe_globals=((Foreign, "elsewhere.Foreign"),))
    assert "safe_globals=[Foreign]" in told
    open_checkpoint(path, Reading(safe_globals=((Foreign, f"{Foreign.__module__}.Foreign"),))).close()


def test_what_the_program_allows_stays_allowed(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "meta": Foreign()}, tmp_path / "w.ckpt")
    with torch.serialization.safe_globals([Foreign]):
        open_checkpoint(tmp_path / "w.ckpt", Reading(safe_globals=(Foreign,))).close()
        torch.save({"w": torch.ones(2), "meta": Attack(tmp_path)}, tmp_path / "bad.ckpt")
        refusal(tmp_path / "bad.ckpt", safe_globals=(Foreign, Opened))
        allowed = torch.serialization.get_safe_globals()
    assert Foreign in allowed
    assert Opened not in allowed


@EVERY_PICKLE
def test_a_whole_module_is_refused(tmp_path: Path, save: Save) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # torch warns that it has no source of classes in a console
        patch.setattr("torch.serialization.get_source_lines_and_file", lambda _: (["source"], "1", "file.py"))
        save(nn.Linear(2, 2), tmp_path / "w.pth")
        save({"model": nn.Linear(2, 2), "epoch": 3}, tmp_path / "inner.pth")
    told = refusal(tmp_path / "w.pth")
    assert "it holds a whole torch.nn.modules.linear.Linear, of which nothing was run" in told
    assert "save module.state_dict()" in told
    told = refusal(tmp_path / "inner.pth")
    assert "'model' is a whole torch.nn.modules.linear.Linear, of which nothing was run" in told


def test_names_that_would_break_a_message_do_not(tmp_path: Path) -> None:
    hostile = b"\x80\x04\x8c\x04os\n.\x8c\x06sys\x1b[m\x93)R."
    (tmp_path / "w.pth").write_bytes(hostile)
    assert "names os?..sys?[m, of which nothing was run" in refusal(tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(b"\x80\x04\x8c\x04os\n.\x8c\x02\xed\xa0\x93.")
    assert "cut off, damaged" in refusal(tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(b"\x80\x02c" + b"x" * 100_000 + b"\ny\n.")
    assert len(refusal(tmp_path / "w.pth")) < 1000


@pytest.mark.parametrize("twice", ["net/data.pkl", "net/data/0"])
def test_a_record_that_is_there_twice(tmp_path: Path, twice: str) -> None:
    torch.save({"w": torch.ones(4)}, tmp_path / "net.pth")
    with zipfile.ZipFile(tmp_path / "net.pth", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(twice, archive.read(twice))
    assert "two of its records have the same name" in refusal(tmp_path / "net.pth")


def test_a_record_that_lies_where_another_one_is(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(4)}, tmp_path / "net.pth")
    content = bytearray((tmp_path / "net.pth").read_bytes())
    # The last place with the name is in the table of contents, which says 4 bytes before it where the record begins.
    struct.pack_into("<I", content, content.rindex(b"net/data/0") - 4, 0)
    (tmp_path / "net.pth").write_bytes(content)
    assert "there is no record 'net/data/0' at byte 0" in refusal(tmp_path / "net.pth")


@pytest.mark.parametrize("arguments", [{}, {"container": "model"}])
def test_numbers_that_would_break_a_message_do_not(tmp_path: Path, arguments: dict[str, Any]) -> None:
    content = {10**5000: 1, "net": {10**5000: {"w": 1}, 7: 1}}
    write_zip(tmp_path / "w.pth", pickle.dumps(content, protocol=2))
    told = refusal(tmp_path / "w.pth", where="container" if arguments else "checkpoint", **arguments)
    assert "there are none" in told if arguments else "it holds int, 'net'; save" in told


def test_a_pickle_with_an_archive_behind_it(tmp_path: Path, proof: Path) -> None:
    with (tmp_path / "w.pth").open("wb") as file:
        pickle.dump(Attack(proof), file, protocol=2)
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("innocent.txt", "")
    assert "posix.system" in refusal(tmp_path / "w.pth")


def test_a_name_in_an_archive_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(VALUES)
    key = "../../secret"
    data = b"\x80\x02}(X\x01\0\0\0w" + tensor(key) + b"u."
    write_zip(tmp_path / "w.pth", data)
    assert "the values of 'w' are not in it" in refusal(tmp_path / "w.pth")
    write_zip(tmp_path / "w.pth", data, {f"data/{key}": b"\0" * 16})
    with open_checkpoint(tmp_path / "w.pth") as checkpoint:
        assert checkpoint.read("w").tolist() == [0] * 4


@EVERY_PICKLE
@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ({"numel": 5}, "the storage of 'w' should have 20 bytes, and has 16"),
        ({"numel": -1}, "no count"),
        ({"numel": 2**62}, "cut off"),
        ({"offset": 1}, "ends at byte 20 of a storage of 16"),
        ({"offset": -1}, "no count"),
        ({"offset": 2**63}, "no count"),
        ({"shape": (5,)}, "ends at byte 20 of a storage of 16"),
        ({"shape": (-4,)}, "no count"),
        ({"shape": (2,), "stride": (4,)}, "ends at byte 20 of a storage of 16"),
        ({"shape": (2,), "stride": (-1,)}, "no count"),
        ({"shape": (2**40, 2**40), "stride": (0, 0)}, "other arguments"),
        ({"shape": (2, 2)}, "other arguments"),
        ({"shape": (1,) * 65, "stride": (1,) * 65}, "no tuple of counts"),
        ({"storage": "os\nFloatStorage"}, "no storage of torch"),
        ({"storage": "torch\nTapeStorage"}, "no storage of torch"),
        ({"storage": "torch\nDoubleStorage"}, "cut off"),
    ],
)
def test_a_tensor_stays_within_its_storage(tmp_path: Path, save: Save, numbers: dict[str, Any], told: str) -> None:
    # What lies behind the storage is not to be seen.
    behind = b"\xff" * 64
    is_legacy = save is save_legacy
    data = b"\x80\x02}(X\x01\0\0\0w" + tensor(legacy=is_legacy, **numbers) + b"X\x01\0\0\0v" + tensor("1") + b"u."
    if is_legacy:
        data = data.replace(tensor("1"), tensor("1", legacy=True))
        (tmp_path / "w.pth").write_bytes(legacy(data, {"0": (4, VALUES), "1": (4, behind[:16])}))
    else:
        write_zip(tmp_path / "w.pth", data, {"data/0": VALUES, "data/1": behind})
    assert told in refusal(tmp_path / "w.pth")
