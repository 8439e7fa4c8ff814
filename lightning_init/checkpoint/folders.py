"""Which checkpoint a folder holds."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from lightning_init.checkpoint.confined import leads_out
from lightning_init.errors import checkpoint_error
from lightning_init.text import quoted

__all__ = ["WEIGHTS", "candidates", "checkpoint_in", "contents"]

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "open_clip_model.safetensors",
    "adapter_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
    "adapter_model.bin",
)
"""Names that libraries give to the weights in a folder of theirs, the one to prefer first."""

_LOOKS = re.compile(r".+\.(safetensors|ckpt|pth|pt|bin|index\.json)")
_SHARD = re.compile(r".+-\d+-of-\d+\.[a-z]+")
# What trainers keep beside the weights.
_OTHER = re.compile(r"(optimizer|random_states|rng_state|scaler|scheduler|training_args).*")


def candidates(names: Collection[str]) -> list[str]:
    """The names that may be the checkpoint of a folder; the preferred one alone, if it is there.

    >>> candidates(["pytorch_model.bin", "model.safetensors", "config.json"])
    ['model.safetensors']
    >>> candidates(["last.ckpt", "optimizer.pt", "config.json", "best.ckpt"])
    ['best.ckpt', 'last.ckpt']
    """
    known = [name for name in WEIGHTS if name in names]
    if known:
        return known[:1]
    return sorted(
        name for name in names if _LOOKS.fullmatch(name) and not _SHARD.fullmatch(name) and not _OTHER.fullmatch(name)
    )


def contents(names: Collection[str]) -> str:
    """What is in a folder, for messages."""
    return quoted(sorted(names), 20) or "nothing"


def checkpoint_in(folder: Path) -> Path:
    """The checkpoint that a folder holds.

    Returns:
        A file in it, or the folder itself if it is as a whole a checkpoint of ``torch.distributed.checkpoint``.

    Raises:
        CheckpointError: It holds none, or several of which none is known to be preferred, or cannot be read.
    """
    text = str(folder)
    try:
        if (folder / ".metadata").is_file():
            return folder
        names = [entry.name for entry in folder.iterdir()]
        # Lightning's last.ckpt may be a link to another of them.
        files = [name for name in names if (folder / name).is_file()]
        found = {(folder / name).resolve(): name for name in candidates(files)}
        if len(found) == 1:
            (name,) = found.values()
            if outside := leads_out(folder / name, folder / name):
                raise checkpoint_error(
                    f"{name!r} in {text!r} is a link that leads out of the folder; name {str(outside)!r} itself"
                )
            return folder / name
    except (OSError, RuntimeError) as error:
        raise checkpoint_error(f"the folder {text!r} cannot be looked at: {error}") from error
    if found:
        raise checkpoint_error(
            f"the folder {text!r} holds several checkpoints; name one of them: {contents(found.values())}"
        )
    shards = [name for name in files if _SHARD.fullmatch(name)]
    if shards:
        raise checkpoint_error(
            f"the folder {text!r} holds shards without their index (*.index.json): {contents(shards)}"
        )
    raise checkpoint_error(f"the folder {text!r} holds no checkpoint; in it: {contents(names)}")
