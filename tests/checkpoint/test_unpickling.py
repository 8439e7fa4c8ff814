from __future__ import annotations

import enum
import io
import mmap
import pickle
import random
import resource
import time
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from lightning_init.checkpoint.formats.stand_ins import Inert, Stored
from lightning_init.checkpoint.formats.unpickling import Unpickled, unpickle
from tests.checkpoint.pickled import Foreign, tensor

EVERY_PROTOCOL = pytest.mark.parametrize("protocol", range(6))


class Settings(dict[str, object]):
    """A dictionary of its own kind, as trainers keep them."""


class Point(NamedTuple):
    x: int


class Colour(enum.Enum):
    RED = 1


def read(data: bytes) -> Unpickled:
    return unpickle(io.BytesIO(data))


def refused(data: bytes) -> str:
    with pytest.raises(pickle.UnpicklingError) as caught:
        read(data)
    return str(caught.value)


def shared() -> Any:
    inner: dict[str, object] = {"deep": [1.5, None]}
    return {"one": inner, "two": inner}


@EVERY_PROTOCOL
@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        [False, 0, 1, -1, 255, 256, 2**16, 2**31, -(2**31), 2**64, -(2**2100)],
        [0.0, -0.5, float("inf"), 1e-300],
        ["", "text", "größer\n\\u1234", "\U0001f600", "x" * 300, "y" * 70_000],
        [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((((),),),)],
        {"a": {"b": {}}, 3: [], 2.5: "x", None: 1, True: 2},
        list(range(3000)),
        {str(i): i for i in range(3000)},
        OrderedDict([("b", 1), ("a", OrderedDict())]),
        defaultdict(list, {"a": [1]}),
        Counter("aab"),
        shared(),
    ],
)
def test_plain_values_come_back(value: object, protocol: int) -> None:
    found = read(pickle.dumps(value, protocol=protocol)).content
    assert found == value
    assert list(found) == list(value) if isinstance(value, dict) and isinstance(found, dict) else True


@EVERY_PROTOCOL
def test_what_is_shared_stays_shared(protocol: int) -> None:
    found: Any = read(pickle.dumps(shared(), protocol=protocol)).content
    assert found["one"] is found["two"]
    loop: list[object] = []
    loop.append(loop)
    again: Any = read(pickle.dumps(loop, protocol=protocol)).content
    assert again[0] is again


@EVERY_PROTOCOL
def test_bytes_and_sets_do_not_stand_in_the_way(protocol: int) -> None:
    value = {"bytes": b"\xff\x00", "array": bytearray(b"ab"), "set": {1, 2}, "frozen": frozenset("a"), "w": 3}
    found: Any = read(pickle.dumps(value, protocol=protocol))
    assert list(found.content) == list(value)
    assert found.content["w"] == 3


@EVERY_PROTOCOL
def test_objects_of_classes_are_inert(protocol: int) -> None:
    value = [Foreign(), Point(1), Colour.RED, Settings(a=1, b={"c": 2}), Foreign, len]
    found: Any = read(pickle.dumps(value, protocol=protocol))
    assert all(isinstance(item, Inert) for item in found.content)
    names = [item.name for item in found.content]
    assert names == [
        f"{Foreign.__module__}.Foreign",
        f"{__name__}.Point",
        f"{__name__}.Colour",
        f"{__name__}.Settings",
        f"{Foreign.__module__}.Foreign",
        "builtins.len",
    ]
    # A state dict may be of any such class.
    assert dict(found.content[3]) == {"a": 1, "b": {"c": 2}}
    assert set(names) <= set(found.names)


def test_the_names_of_python_2() -> None:
    # OrderedDict([("a", 1)]), as torch of Python 2 wrote state dicts
    data = b"\x80\x02ccollections\nOrderedDict\n(]](U\x01aK\x01eatR."
    assert read(data).content == {"a": 1}
    assert read(b"\x80\x02c__builtin__\nset\n(]K\x01atR.").content == [1]
    assert read(b"\x80\x02c__builtin__\nunicode\n.").names == ("builtins.str",)
    assert read(b"\x80\x02ccopy_reg\n_reconstructor\n.").names == ("copyreg._reconstructor",)


def test_a_tensor_is_a_description() -> None:
    found = read(b"\x80\x02" + tensor("7", 12, offset=2, shape=(2, 5), stride=(1, 2)) + b".")
    assert isinstance(found.content, Stored)
    stored = found.content
    assert (stored.storage.key, stored.storage.dtype, stored.storage.numel) == ("7", torch.float32, 12)
    assert (stored.dtype, stored.offset, stored.shape, stored.stride) == (torch.float32, 2, (2, 5), (1, 2))
    assert (stored.start, stored.span, stored.end, stored.storage.end) == (8, 40, 48, 48)
    assert list(found.storages) == ["7"]


def test_pickles_follow_each_other() -> None:
    stream = io.BytesIO(b"".join(pickle.dumps(value, protocol=4) for value in (1, "two", [3])))
    assert [unpickle(stream).content for _ in range(3)] == [1, "two", [3]]
    assert stream.read() == b""


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "exhausted"),
        (b"\x80\x02", "exhausted"),
        (b".", "pop from empty list"),
        (b"0.", "pop from empty list"),
        (b"a.", "pop from empty list"),
        (b"R.", "pop from empty list"),
        (b"N\x86.", "its stack is empty"),
        (b"NR.", "arguments of a call are a NoneType"),
        (b"K\x01)R.", "calls a int"),
        (b"ctorch\nfloat32\n)R.", "calls a dtype"),
        (b"N)\x81.", "other arguments"),
        (b"t.", "pop from empty list"),
        (b"u.", "pop from empty list"),
        (b"](K\x01u.", "no value"),
        (b"](K\x01K\x01u.", "puts items into a list"),
        (b"}(K\x01e.", "appends to a dict"),
        (b"}K\x01K\x02s", "exhausted"),
        (b"h\x05.", "there is no 5"),
        (b"j\xff\xff\xff\xff.", "there is no 4294967295"),
        (b"q\x05.", "list index out of range"),
        (b"NQ.", "no storage of torch"),
        (b"Pname\n.", "no storage of torch"),
        (b"K\x01K\x02\x93.", "a name in it is no text"),
        (b"\x97.", "keeps data outside"),
        (b"N\x98.", "keeps data outside"),
        (b"\x81.", "pop from empty list"),
        (b"(o.", "not enough values"),
        (b"\xff.", "unknown"),
        (b"ccollections\nOrderedDict\nK\x01\x85R.", "other arguments"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNNNtR.", "other arguments"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R.", "other arguments"),
        (b"ctorch._utils\n_rebuild_tensor_v3\n)R.", "other arguments"),
        (b"ctorch._utils\n_rebuild_parameter\n)R.", "other arguments"),
        # Numbers of digits that would take hours to read.
        (b"L" + b"9" * 100_000 + b"L\n.", "Exceeds the limit"),
    ],
)
def test_what_is_no_pickle(data: bytes, told: str) -> None:
    assert told in refused(data)


@pytest.mark.parametrize(
    "head",
    [
        b"X\xff\xff\xff\xff",
        b"B\xff\xff\xff\xff",
        b"T\xff\xff\xff\x7f",
        b"T\xff\xff\xff\xff",
        b"\x8d" + b"\xff" * 7 + b"\x0f",
        b"\x8d" + b"\xff" * 8,
        b"\x8e" + b"\xff" * 7 + b"\x0f",
        b"\x96" + b"\xff" * 7 + b"\x0f",
        b"\x8b\xff\xff\xff\x7f",
        b"\x8b\xff\xff\xff\xff",
        b"\x95" + b"\xff" * 8,
    ],
)
@pytest.mark.parametrize("mapped", [False, True])
def test_lengths_that_lie_take_no_memory(tmp_path: Path, head: bytes, mapped: bool) -> None:
    data = b"\x80\x04" + head + b"abc"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if mapped:
        (tmp_path / "pickle").write_bytes(data)
        with (
            (tmp_path / "pickle").open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream,
            pytest.raises(pickle.UnpicklingError),
        ):
            unpickle(stream)  # type: ignore[arg-type]
    else:
        refused(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB


BOMBS = {
    # a list that holds the one before it twice, many times over
    "laughs": b"]" + b"q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(100)) + b".",
    "a tuple as a key": b"})q\x000" + b"".join(b"h%ch%c\x86q%c0" % (i, i, i + 1) for i in range(100)) + b"h\x64Ns.",
    "a deep key": b"}" + b")" + b"\x85" * 500_000 + b"Ns.",
    "a deep list": b"]" * 500_000 + b"a" * 499_999 + b".",
    "a deep mapping": b"}K\x01" * 300_000 + b"N" + b"s" * 300_000 + b".",
    "a deep class": b"cm\nx\nK\x01" * 200_000 + b"N" + b"s" * 200_000 + b".",
    "marks": b"(" * 500_000 + b"N.",
    "a far memo": b"Nr\xff\xff\xff\xff.",
    "many memos": b"N" + b"\x94" * 300_000 + b".",
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.timeout(20)
def test_bombs(name: str) -> None:
    start = time.process_time()
    read(BOMBS[name])
    assert time.process_time() - start < 10


def test_a_list_makes_one_mapping_alone() -> None:
    # Otherwise a small file could ask for a large mapping as often as it likes.
    pairs = b"](" + b"](K\x01K\x02e](K\x03K\x04e" + b"e"
    found: Any = read(pairs + b"q\x000" + b"](" + b"ccollections\nOrderedDict\nh\x00\x85R" * 3 + b"e.").content
    assert found == [{1: 2, 3: 4}, {}, {}]


def test_damage_is_one_kind_of_error() -> None:
    generator = random.Random(3)  # noqa: S311 - no secret
    value = {"w": [1.5, "x", (1, 2)], "o": OrderedDict(a=1), "c": Foreign(), "s": Settings(a=1)}
    wholes = [pickle.dumps(value, protocol=protocol) for protocol in range(6)] + [b"\x80\x02" + tensor() + b"."]
    for _ in range(20_000):
        data = bytearray(generator.choice(wholes))
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        try:
            read(bytes(data[: generator.randint(1, len(data))] if generator.random() < 0.3 else data))
        except pickle.UnpicklingError:
            continue


def test_every_operation_of_python_is_known() -> None:
    import pickletools  # noqa: PLC0415 - for this list alone

    from lightning_init.checkpoint.formats.unpickling import _OPERATIONS  # noqa: PLC0415 - the promise shows only from inside

    assert {operation.name for operation in pickletools.opcodes} == {*_OPERATIONS, "STOP"}
