"""What files of ``torch.save`` hold, and where in them the values of tensors lie."""

from __future__ import annotations

import errno
import io
import mmap
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from lightning_init.checkpoint.formats.constructors import is_foreign
from lightning_init.checkpoint.formats.stand_ins import Storage, kind
from lightning_init.checkpoint.formats.unpickling import Unpickled, unpickle
from lightning_init.errors import checkpoint_error
from lightning_init.text import some

if TYPE_CHECKING:
    # torch needs the package, but this one does not.
    from typing_extensions import Buffer

__all__ = ["Layout", "Record", "read_legacy", "read_zip"]

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001

# A zip archive may be compressed by somebody else; torch leaves its records as they are.
_MOST_UNPACKED = 2**28

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_UTF8 = 0x800


@dataclass(frozen=True)
class Record:
    """Where a storage lies.

    Attributes:
        start: The byte of the file at which it begins.
        nbytes: Its bytes, once unpacked.
        packed: The name of the record in a zip archive that has to be unpacked; None if the bytes lie as they are.
    """

    start: int
    nbytes: int
    packed: str | None = None


@dataclass(frozen=True)
class Layout:
    """A file that was read but for its values.

    Attributes:
        content: What was saved, with stand-ins; see `lightning_init.checkpoint.formats.unpickling`.
        names: The classes, functions and constants that the file names.
        records: The storages by their keys.
        swapped: The bytes of its numbers are in the order of other machines.
    """

    content: object
    names: tuple[str, ...]
    records: Mapping[str, Record]
    swapped: bool

    @property
    def foreign(self) -> list[str]:
        """What it names besides tensors and plain values."""
        return [name for name in self.names if is_foreign(name)]


class _Part(io.RawIOBase):
    """A part of a file as a file of its own."""

    def __init__(self, file: io.FileIO, start: int, length: int | None) -> None:
        self._file, self._start, self._at = file, start, 0
        self._length = file.seek(0, os.SEEK_END) - start if length is None else length

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence] + offset
        if at < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._at = at
        return at

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer)[: max(self._length - self._at, 0)]
        self._file.seek(self._start + self._at)
        count = self._file.readinto(view)
        self._at += count
        return count


def read_zip(path: Path, start: int = 0, length: int | None = None) -> Layout:
    """Reads a zip archive but for its values.

    Args:
        path: The file.
        start: Where in it the archive begins.
        length: The bytes of the archive; None if it is the whole file.

    Raises:
        CheckpointError: Something else wrote the archive.
        Exception: Nearly any, when it is damaged.
    """
    with path.open("rb", buffering=0) as file, io.BufferedReader(_Part(file, start, length)) as part:
        try:
            archive = zipfile.ZipFile(part)
        except zipfile.BadZipFile as error:
            raise checkpoint_error(
                f"{str(path)!r} is a zip archive without its end: it was cut off or damaged; fetch or save it again"
            ) from error
        with archive:
            layout = _read_archive(path, part, archive)
    records = {key: replace(record, start=record.start + start) for key, record in layout.records.items()}
    return replace(layout, records=records)


def _read_archive(path: Path, file: IO[bytes], archive: zipfile.ZipFile) -> Layout:
    # Of two records of one name, every reader takes the one that it likes.
    if len(archive.NameToInfo) < len(archive.infolist()):
        raise pickle.UnpicklingError("two of its records have the same name")
    names = {name.partition("/")[2]: name for name in reversed(archive.namelist())}
    if "constants.pkl" in names:
        raise checkpoint_error(
            f"{str(path)!r} is a TorchScript archive, not a checkpoint; save its weights with "
            f"torch.save(torch.jit.load(path).state_dict(), ...)"
        )
    if "data.pkl" not in names:
        raise checkpoint_error(
            f"{str(path)!r} is a zip archive, but torch.save did not write it; unpack it if the checkpoint is inside"
        )
    read = unpickle(io.BytesIO(_small_record(archive, names["data.pkl"])))
    order = _small_record(archive, names["byteorder"]).decode("ascii") if "byteorder" in names else "little"
    folder = names["data.pkl"].partition("/")[0]
    records = {
        key: _record(file, archive.getinfo(f"{folder}/data/{key}"))
        for key in read.storages
        if f"{folder}/data/{key}" in archive.NameToInfo
    }
    return Layout(read.content, read.names, records, order != sys.byteorder)


def _small_record(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED and info.file_size > _MOST_UNPACKED:
        raise pickle.UnpicklingError(f"{name} would unpack to {info.file_size} bytes")
    return archive.read(name)


def _record(file: IO[bytes], info: zipfile.ZipInfo) -> Record:
    file.seek(info.header_offset)
    mark, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    expected = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437")
    if mark != b"PK\3\4" or file.read(name) != expected:
        raise pickle.UnpicklingError(f"there is no record {info.filename!r} at byte {info.header_offset}")
    start = info.header_offset + _LOCAL_HEADER.size + name + extra
    if info.compress_type != zipfile.ZIP_STORED:
        return Record(start, info.file_size, info.filename)
    if info.flag_bits & 1:
        raise pickle.UnpicklingError(f"its record {info.filename!r} is encrypted")
    return Record(start, min(info.file_size, max(0, file.seek(0, io.SEEK_END) - start)))


def read_legacy(path: Path) -> Layout:
    """Reads a legacy file but for its values: five pickles, and behind them the storages one by one.

    Raises:
        CheckpointError: It is not from ``torch.save``.
        Exception: Nearly any, when it is damaged.
    """
    # A mapped file gives no more than it has, whatever length is claimed.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        stream = cast("IO[bytes]", mapped)
        first = unpickle(stream)
        if first.content != _MAGIC:
            raise checkpoint_error(_another_pickle(path, first))
        version = unpickle(stream).content
        if version != _VERSION:
            raise pickle.UnpicklingError("its version is not that of any torch")
        unpickle(stream)
        read = unpickle(stream)
        keys = unpickle(stream).content
        records = _records(mapped, keys if isinstance(keys, list) else [], read.storages)
    return Layout(read.content, read.names, records, sys.byteorder != "little")


def _another_pickle(path: Path, found: Unpickled) -> str:
    foreign = [name for name in found.names if is_foreign(name)]
    named = f" and names {some(foreign)}, of which nothing was run" if foreign else ""
    return (
        f"{str(path)!r} is cut off, damaged, or a pickle that torch.save did not write: it holds a "
        f"{kind(found.content)}{named}; fetch it again, or save module.state_dict() with torch.save"
    )


def _records(mapped: mmap.mmap, keys: list[object], storages: Mapping[str, Storage]) -> dict[str, Record]:
    records = {}
    start = mapped.tell()
    for key in keys:
        if not isinstance(key, str) or key not in storages:
            raise pickle.UnpicklingError("it lists a storage that nothing refers to")
        # The number of elements stands before them.
        (numel,) = struct.unpack_from("<q", mapped, start)
        nbytes = numel * storages[key].dtype.itemsize
        start += 8
        if numel < 0 or start + nbytes > len(mapped):
            raise EOFError(f"{nbytes} bytes of a storage should follow, but {len(mapped) - start} do")
        records[key] = Record(start, nbytes)
        start += nbytes
    return records
