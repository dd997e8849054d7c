"""`lazy`: a property that is worked out once for each object.

`functools.cached_property` takes a lock at every first access before Python 3.12, which costs more than most of the
values it would guard here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

Value = TypeVar("Value")


class lazy(Generic[Value]):
    """Decorates a method without arguments. The value is kept in the object's `__dict__` under the same name."""

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, owner: None, kind: type[Any]) -> lazy[Value]: ...

    @overload
    def __get__(self, owner: object, kind: type[Any]) -> Value: ...

    def __get__(self, owner: object | None, kind: type[Any]) -> lazy[Value] | Value:
        if owner is None:
            return self
        # Without a __set__, the next access finds the value in the object and never comes here.
        value = self._compute(owner)
        setattr(owner, self._name, value)  # to ask for `__dict__` would make one, which Python 3.11 saves the object
        return value
