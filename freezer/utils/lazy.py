"""Attributes that are computed when they are first needed."""

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

T = TypeVar('T')


class fetched(Generic[T]):  # noqa: N801 - a decorator
    """:func:`functools.cached_property` without its lock.

    Before Python 3.12 that lock is one for all objects of a class, so that threads
    would fetch the markers of several levels one after the other.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> Self | T:
        if instance is None:
            return self
        # Next time, the instance's own attribute is found first.
        value = instance.__dict__[self._name] = self._compute(instance)
        return value
