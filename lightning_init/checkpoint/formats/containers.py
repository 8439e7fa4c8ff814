"""Which part of a checkpoint is the state dict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeGuard, TypeVar

from lightning_init.checkpoint.base import Reading
from lightning_init.checkpoint.formats.stand_ins import Inert, kind
from lightning_init.errors import CheckpointError, Fault, did_you_mean
from lightning_init.text import some

__all__ = ["AVERAGED", "CONTAINERS", "find"]

T = TypeVar("T")

CONTAINERS = ("state_dict", "model", "module", "state_dict_ema", "model_ema", "ema", "teacher", "student")
"""Under which names programs keep the state dict in a checkpoint; the first that holds tensors is taken."""

AVERAGED = ("state_dict_ema", "model_ema", "ema", "teacher")
"""The names among them of weights that were averaged during training."""

# Containers are looked for in containers, but no deeper.
_LEVELS = 2


def find(
    content: object, reading: Reading, source: str, is_tensor: Callable[[object], TypeGuard[T]]
) -> tuple[dict[str, T], tuple[str, ...]]:
    """The named tensors of a checkpoint; everything else in it is left out.

    Args:
        content: What the checkpoint holds, whole.
        reading: Which part of it is wanted.
        source: Where it comes from, for messages.
        is_tensor: Says what a tensor is.

    Returns:
        The tensors by their keys, and what the user may want to know about their choice.

    Raises:
        CheckpointError: There is no tensor where a state dict can stand, or not in the part that is wanted.
    """
    if not isinstance(content, Mapping):
        raise _error("checkpoint", f"{source!r} holds a {kind(content)}, not a mapping from names to tensors; {_SAVE}")
    search = _Search(content, source, is_tensor)
    if reading.container is not None:
        return search.named(reading.container), ()
    return search.averaged() if reading.ema else search.usual()


_SAVE = "save module.state_dict()"

_LONGEST = 60


@dataclass(frozen=True)
class _Search(Generic[T]):
    content: Mapping[object, object]
    source: str
    is_tensor: Callable[[object], TypeGuard[T]]

    def tensors(self, content: object) -> dict[str, T]:
        if not isinstance(content, Mapping):
            return {}
        return {key: value for key, value in content.items() if isinstance(key, str) and self.is_tensor(value)}

    def named(self, path: str) -> dict[str, T]:
        # A key may have dots itself.
        found: object = self.content
        for name in [path] if path in self.content else path.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        tensors = self.tensors(found)
        if not tensors:
            what = "has no such part" if found is None else f"has a {kind(found)} there, and no tensors in it"
            raise _error("container", f"{path!r}: {self.source!r} {what}; {did_you_mean(path, self.parts())}")
        return tensors

    def averaged(self) -> tuple[dict[str, T], tuple[str, ...]]:
        if self.swapped:
            return self.tensors(self.content["state_dict"]), ()
        paths = list(self.paths(AVERAGED))
        if not paths:
            parts = self.parts()
            there = f"{did_you_mean('', parts)}; name the right one with container=..., or"
            raise _error(
                "ema",
                f"{self.source!r} has no averaged weights under one of {_quoted(AVERAGED)}; "
                f"{there if parts else 'it has no parts that hold tensors;'} leave ema out",
            )
        return self.at(paths[0]), _told(paths)

    def usual(self) -> tuple[dict[str, T], tuple[str, ...]]:
        paths = list(self.paths(CONTAINERS))
        found = self.at(paths[0]) if paths else self.tensors(self.content)
        if not found:
            raise _error("checkpoint", self.nothing())
        if raw := self.swapped:
            return found, (f"'state_dict' holds averaged weights; container={raw!r} takes those of the last step",)
        return found, _told(paths)

    @property
    def swapped(self) -> str | None:
        """Where the weights of the last step are, if the trainer saved averaged ones in their place."""
        content = self.content
        main = self.tensors(content.get("state_dict"))
        # Lightning's WeightAveraging
        if main and "averaging_state" in content and self.tensors(content.get("current_model_state")):
            return "current_model_state"
        # MMEngine's EMAHook, which counts its steps beside them
        raw = self.tensors(content.get("ema_state_dict"))
        is_mmengine = main and "steps" in raw and all(f"module.{key}" in raw for key in main)
        return "ema_state_dict" if is_mmengine else None

    def paths(self, names: Iterable[str]) -> Iterator[tuple[str, ...]]:
        """The ways to tensors that start with one of the names, one each."""
        # Containers before own tensors: a checkpoint may keep a loss as a tensor beside its "model", a state dict has
        # no mapping under any of these names.
        for name in names:
            rest = self.path(self.content.get(name), _LEVELS - 1)
            if rest is not None:
                yield (name, *rest)

    def path(self, content: object, levels: int) -> tuple[str, ...] | None:
        """The way from a container to its tensors: through more containers, as far as there are any."""
        if not isinstance(content, Mapping):
            return None
        for name in CONTAINERS if levels else ():
            rest = self.path(content.get(name), levels - 1)
            if rest is not None:
                return (name, *rest)
        return () if self.tensors(content) else None

    def at(self, path: tuple[str, ...]) -> dict[str, T]:
        found: object = self.content
        for name in path:
            found = found[name] if isinstance(found, Mapping) else None
        return self.tensors(found)

    def parts(self) -> dict[str, int]:
        """Which parts hold how many tensors, as ``container`` would name them."""
        found = {}
        for name, value in self.content.items():
            if isinstance(name, str) and isinstance(value, Mapping):
                found[name] = len(self.tensors(value))
                found.update({f"{name}.{key}": len(self.tensors(part)) for key, part in value.items()})
        return {name: count for name, count in found.items() if count and len(name) <= _LONGEST}

    def nothing(self) -> str:
        parts = [f"{name!r} ({count} of them)" for name, count in self.parts().items()]
        whole = {key: value for key, value in self.content.items() if isinstance(value, Inert) and not value}
        if isinstance(self.content, Inert) and not self.content:
            told = f"it holds a whole {self.content.name}, of which nothing was run; {_SAVE}"
        elif parts:
            told = f"there are some in {some(parts, 8)}: name the right one with container=..."
        elif whole:
            objects = [f"{_shown(key)} is a whole {value.name}" for key, value in whole.items()]
            told = f"{some(objects)}, of which nothing was run; {_SAVE}"
        else:
            told = f"it holds {some(list(map(_shown, self.content)), 8) or 'nothing'}; {_SAVE}"
        return f"{self.source!r} has no tensors at its top level or in one of {_quoted(CONTAINERS)}; {told}"


def _told(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    first, *others = map(".".join, paths or [()])
    if not others:
        return ()
    note = f"the weights are those of {first!r}; there are others in {_quoted(others)}, which container=... takes"
    return (note,)


def _quoted(names: Iterable[object]) -> str:
    return ", ".join(map(repr, names))


def _shown(key: object) -> str:
    text = key.name if isinstance(key, Inert) else repr(key)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _error(where: str, what: str) -> CheckpointError:
    return CheckpointError([Fault(where, what)])
