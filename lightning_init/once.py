"""An attribute that is computed when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

if TYPE_CHECKING:
    # torch needs the package, but this one does not.
    from typing_extensions import Self

__all__ = ["once"]

T = TypeVar("T")


class once(Generic[T]):  # noqa: N801 - a decorator
    """``functools.cached_property`` without the lock that it takes before Python 3.12, which costs more than a shape.

    >>> class Circle:
    ...     @once
    ...     def radius(self) -> int:
    ...         print("measured")
    ...         return 2
    >>> circle = Circle()
    >>> circle.radius + circle.radius
    measured
    4
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> Self | T:
        if instance is None:
            return self
        found = instance.__dict__[self._name] = self._compute(instance)
        return found
