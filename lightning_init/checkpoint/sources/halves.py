"""Files that end too early, told by what they say of themselves."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

__all__ = ["is_cut_off"]

# What safetensors itself takes.
_LONGEST_HEADER = 100_000_000


def is_cut_off(path: Path) -> bool:
    """Whether a file is surely only the first part of one.

    A zip archive (of ``torch.save``) has its table of contents at the end, and the header of a safetensors file says
    where the values end. Of other files nothing can be told.
    """
    with path.open("rb") as file:
        head = file.read(9)
        if head.startswith(b"PK\x03\x04"):
            return not zipfile.is_zipfile(path)
        if head[5:] != b"\0\0\0{":
            return False
        length = int.from_bytes(head[:8], "little")
        size = path.stat().st_size
        if 8 + length > size:
            return True
        if length > _LONGEST_HEADER:
            return False
        file.seek(8)
        try:
            ends = [
                entry["data_offsets"][1] for name, entry in json.loads(file.read(length)).items() if name[:2] != "__"
            ]
            return 8 + length + max(ends, default=0) > size
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            # Wrong as it is, but not for being cut off.
            return False
