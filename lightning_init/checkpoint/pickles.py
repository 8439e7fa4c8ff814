"""Files that ``torch.save`` wrote: reading them without running what is in them, and finding the state dict."""

from __future__ import annotations

import io
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_init.checkpoint.base import SafeGlobal
from lightning_init.errors import CheckpointError, Fault

__all__ = ["CONTAINERS", "check_zip", "load", "state_dict"]

CONTAINERS = ("state_dict", "model", "module", "state_dict_ema", "model_ema", "ema", "teacher", "student")
"""Under which names programs keep the state dict in a checkpoint; the first that holds tensors is taken."""

# magic number, protocol, system, the object, the names of its storages
_PICKLES_IN_A_LEGACY_FILE = 5

# Against these a file is as good as a program; torch itself refuses the last four whatever is allowed.
_POWERFUL_MODULES = frozenset({"builtins", "importlib", "runpy", "shutil", "subprocess", "nt", "os", "posix", "sys"})


def load(path: Path, safe_globals: Sequence[SafeGlobal], *, mapped: bool) -> object:
    """What a file of ``torch.save`` holds, read with ``weights_only=True`` whatever the environment says.

    Args:
        path: A zip archive or a legacy pickle.
        safe_globals: Classes that the file may make, besides those that torch allows. They are allowed here only.
        mapped: Memory-map the values instead of reading them, which zip archives allow.

    Raises:
        CheckpointError: The file is damaged, is no checkpoint, or holds classes that are not allowed.
    """
    # What the user has allowed for the whole program would be taken away by the context's end.
    extra = [known for known in safe_globals if known not in torch.serialization.get_safe_globals()]
    try:
        # A pickle protocol above 2 is a warning to torch and, soon after, an error with the same cause.
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(extra)):
            warnings.simplefilter("ignore", UserWarning)
            if path.suffix != ".safetensors":
                content: object = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
            else:
                # torch goes by this one ending when it is given a path, so it gets an open file.
                with path.open("rb") as file:
                    content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with torch.serialization.safe_globals(list(extra)):
            raise _refusal(path, error) from error
    except Exception as error:
        # Damaged bytes come out of torch as nearly any exception: RuntimeError, EOFError, IndexError, KeyError, ...
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise _error(
            f"{str(path)!r} cannot be read: it is cut off, damaged, or a pickle that torch.save did not "
            f"write ({reason}); fetch or save it again"
        ) from error
    return content


def check_zip(path: Path) -> None:
    """Tells a zip archive of ``torch.save`` from other ones.

    Raises:
        CheckpointError: The archive is cut off, or something else wrote it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except zipfile.BadZipFile as error:
        raise _error(
            f"{str(path)!r} is a zip archive without its end: it was cut off or damaged; fetch or save it again"
        ) from error
    if "constants.pkl" in names:
        raise _error(
            f"{str(path)!r} is a TorchScript archive, not a checkpoint; save its weights with "
            f"torch.save(torch.jit.load(path).state_dict(), ...)"
        )
    if "data.pkl" not in names:
        raise _error(
            f"{str(path)!r} is a zip archive, but torch.save did not write it; unpack it if the checkpoint is inside"
        )


def _refusal(path: Path, error: pickle.UnpicklingError) -> CheckpointError:
    # torch wraps the reason in several lines of advice; the bare one is the context.
    reason = str(error.__context__ or error).strip().splitlines()[0].partition(". Please use")[0].rstrip(".: ")
    names = _refused(path)
    if not names:
        return _error(
            f"{str(path)!r} cannot be read: it is cut off or damaged, or holds what weights_only=True refuses "
            f"({reason}); fetch it again, or save its weights with torch.save(module.state_dict(), ...); classes that "
            f"are named here can be allowed with safe_globals=[...], if you trust the file"
        )
    short = ", ".join(name.rpartition(".")[2] for name in names)
    powerful = [name for name in names if name.partition(".")[0] in _POWERFUL_MODULES]
    caution = f"; mind that {', '.join(powerful)} can make a file run anything" if powerful else ""
    return _error(
        f"{str(path)!r} holds more than tensors, and was not run: {', '.join(names)} ({reason}); better save "
        f"module.state_dict() alone; or, if you trust the file, pass safe_globals=[{short}]{caution}"
    )


def _refused(path: Path) -> list[str]:
    """The classes and functions that a file names and torch does not allow, found without running it."""
    named: set[tuple[str, str]] = set()
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    if zipped:
        with zipfile.ZipFile(path) as archive:
            record = next(name for name in archive.namelist() if name.partition("/")[2] == "data.pkl")
            named.update(_globals(io.BytesIO(archive.read(record))))
    else:
        with path.open("rb") as file:
            for _ in range(_PICKLES_IN_A_LEGACY_FILE):
                named.update(_globals(file))
    # torch tells which of them it refuses for a zip archive in protocol 2, so it is given one with the names alone.
    calls = "".join(f"c{module}\n{name}\n" for module, name in sorted(named) if f"{module}{name}".isprintable())
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + calls.encode() + b"N.")
        archive.writestr("archive/version", "3\n")
    data.seek(0)
    return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(data))


def _globals(file: IO[bytes]) -> Iterator[tuple[str, str]]:
    """(module, name) of what one pickle imports; as far as it can be followed."""
    texts: list[str] = []
    memo: dict[int, str] = {}
    try:
        for operation, argument, _ in pickletools.genops(file):
            if operation.name == "GLOBAL":
                module, _, name = str(argument).partition(" ")
                yield module, name
            elif operation.name == "STACK_GLOBAL" and len(texts) > 1:
                yield texts[-2], texts[-1]
            elif operation.name == "MEMOIZE":
                memo[len(memo)] = texts[-1] if texts else ""
            elif operation.name in ("BINGET", "LONG_BINGET"):
                texts.append(memo.get(int(argument or 0), ""))
            elif isinstance(argument, str):
                texts.append(argument)
    except ValueError:
        # Values follow the pickles of a legacy file, and a damaged file holds anything.
        return


def state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """The named tensors of a loaded checkpoint; everything else in it is left out.

    Args:
        content: What :func:`load` returned.
        path: For messages.

    Raises:
        CheckpointError: There is no tensor where a state dict can stand, or one without values of its own.
    """
    if not isinstance(content, Mapping):
        raise _error(
            f"{str(path)!r} holds a {type(content).__name__}, not a mapping from names to tensors; save "
            f"module.state_dict()"
        )
    found = _search(content, levels=2)
    if not found:
        inside = {str(name): len(_tensors(value)) for name, value in content.items() if isinstance(value, Mapping)}
        elsewhere = [f"{name!r} ({count} of them)" for name, count in inside.items() if count]
        known = ", ".join(map(repr, CONTAINERS))
        raise _error(
            f"{str(path)!r} has no tensors at its top level or in one of {known}; "
            + (
                f"there are some in {', '.join(elsewhere)}: save that part alone"
                if elsewhere
                else f"it holds {', '.join(map(repr, list(content)[:8])) or 'nothing'}; save module.state_dict()"
            )
        )
    hollow = [key for key, tensor in found.items() if tensor.is_meta or hasattr(tensor, "__tensor_flatten__")]
    if hollow:
        raise _error(
            f"{str(path)!r} has tensors without values of their own, such as {hollow[0]!r} "
            f"({type(found[hollow[0]]).__name__} on {found[hollow[0]].device}), {len(hollow)} in all; save "
            f"the full tensors"
        )
    return found


def _search(content: Mapping[object, object], levels: int) -> dict[str, Tensor]:
    # Containers before own tensors: a checkpoint may keep a loss as a tensor beside its "model", a state dict has no
    # mapping under any of these names.
    if levels:
        for name in CONTAINERS:
            inner = content.get(name)
            if isinstance(inner, Mapping) and (found := _search(inner, levels - 1)):
                return found
    return _tensors(content)


def _tensors(content: Mapping[object, object]) -> dict[str, Tensor]:
    return {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor) and not is_lazy(value) and not value.is_nested
    }


def _error(what: str) -> CheckpointError:
    return CheckpointError([Fault("checkpoint", what)])
