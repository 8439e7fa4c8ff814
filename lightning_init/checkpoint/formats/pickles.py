"""Files of ``torch.save`` as torch reads them: for classes that the user allows, and tensors that only it can make."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from lightning_init.checkpoint.base import SafeGlobal
from lightning_init.errors import CheckpointError, checkpoint_error

__all__ = ["caution", "damaged", "load"]

# Against these a file is as good as a program; torch itself refuses the last four whatever is allowed.
_POWERFUL_MODULES = frozenset({"builtins", "importlib", "runpy", "shutil", "subprocess", "nt", "os", "posix", "sys"})


def load(path: Path, safe_globals: Sequence[SafeGlobal], names: Iterable[str], *, mapped: bool) -> object:
    """What a file of ``torch.save`` holds, read with ``weights_only=True`` whatever the environment says.

    Args:
        path: A zip archive or a legacy pickle.
        safe_globals: Classes that the file may make, besides those that torch allows. They are allowed here only.
        names: The classes and functions that the file names.
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
            raise _refusal(path, names, error) from error
    except Exception as error:
        raise damaged(path, error) from error
    return content


def damaged(path: Path, error: Exception) -> CheckpointError:
    """The error for a file out of which came another one.

    Damaged bytes come out of torch, of zipfile and of pickles as nearly any exception.
    """
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return checkpoint_error(
        f"{str(path)!r} cannot be read: it is cut off, damaged, or a pickle that torch.save did not "
        f"write ({reason}); fetch or save it again"
    )


def caution(names: Iterable[str]) -> str:
    """What to say about a file that names these; nothing if they are harmless as far as can be told."""
    powerful = [name for name in names if name.partition(".")[0] in _POWERFUL_MODULES]
    return f"; mind that {', '.join(powerful)} can make a file run anything" if powerful else ""


def _refusal(path: Path, names: Iterable[str], error: pickle.UnpicklingError) -> CheckpointError:
    # torch wraps the reason in several lines of advice; the bare one is the context.
    reason = str(error.__context__ or error).strip().splitlines()[0].partition(". Please use")[0].rstrip(".: ")
    refused = _refused(names)
    if not refused:
        return checkpoint_error(
            f"{str(path)!r} cannot be read: it is cut off or damaged, or holds what weights_only=True refuses "
            f"({reason}); fetch it again, or save its weights with torch.save(module.state_dict(), ...); classes that "
            f"are named here can be allowed with safe_globals=[...], if you trust the file"
        )
    short = ", ".join(name.rpartition(".")[2] for name in refused)
    return checkpoint_error(
        f"{str(path)!r} holds more than tensors, and was not run: {', '.join(refused)} ({reason}); better save "
        f"module.state_dict() alone; or, if you trust the file, pass safe_globals=[{short}]{caution(refused)}"
    )


def _refused(names: Iterable[str]) -> list[str]:
    """Which classes and functions torch does not allow."""
    # It tells so for a zip archive in protocol 2, and is given one with the names alone.
    calls = "".join("c{0}\n{2}\n".format(*name.rpartition(".")) for name in sorted(names))
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + calls.encode() + b"N.")
        archive.writestr("archive/version", "3\n")
    data.seek(0)
    return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(data))
