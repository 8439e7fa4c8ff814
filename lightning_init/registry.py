"""Names for classes that a config can ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar, overload

from lightning_init.errors import InitConfigError, did_you_mean

__all__ = ["Registry"]

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Registry(Mapping[str, type[T]], Generic[T]):
    """An open table from a short name to a class.

    Args:
        kind: What the classes are, for messages ("initializer").
        base: The class that every registered one derives from.
        suffix: The ending of a class name that its short name leaves out.

    Example:
        >>> shapes = Registry("shape", object, suffix="Shape")
        >>> @shapes.register
        ... class RoundShape: ...
        >>> shapes["Round"].__name__
        'RoundShape'
    """

    def __init__(self, kind: str, base: type[T], suffix: str = "") -> None:
        self.kind = kind
        self.base = base
        self._suffix = suffix
        self._classes: dict[str, type[T]] = {}

    @overload
    def register(self, target: C) -> C: ...

    @overload
    def register(self, target: str) -> Callable[[C], C]: ...

    def register(self, target: C | str) -> C | Callable[[C], C]:
        """Class decorator, bare or with the short name: ``@R.register`` or ``@R.register("Name")``.

        Raises:
            InitConfigError: The name is taken, or the class does not derive from the registry's base.
        """
        if isinstance(target, str):
            return lambda cls: self._add(target, cls)
        return self._add(target.__name__.removesuffix(self._suffix), target)

    def _add(self, name: str, target: C) -> C:
        cls: type = target
        if not (isinstance(cls, type) and issubclass(cls, self.base)):
            raise InitConfigError(
                f"{cls!r} cannot be registered as {self.kind} {name!r}: it must be a class derived "
                f"from {self.base.__name__}"
            )
        if name in self._classes:
            raise InitConfigError(
                f"the {self.kind} name {name!r} is taken by {self._classes[name].__qualname__}; choose another one"
            )
        self._classes[name] = cls
        return target

    def name_of(self, cls: type) -> str:
        """The short name of a class; the class's own name where it was never registered."""
        return next((name for name, known in self._classes.items() if known is cls), cls.__name__)

    def __getitem__(self, name: str) -> type[T]:
        """The class of that name.

        Raises:
            KeyError: No such name.
        """
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def unknown(self, name: str) -> str:
        """The message about a name, or a dotted path, that is not registered."""
        short = name.rpartition(".")[2].removesuffix(self._suffix)
        return f"unknown {self.kind} {name!r}; {did_you_mean(short, self)}"
