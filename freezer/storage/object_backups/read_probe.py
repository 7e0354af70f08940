"""Tells write-only credentials from a missing object.

A store refuses write-only keys every read, with 403. It also answers 403, not 404, for
a missing object if the keys may not list. So one refusal says nothing about an object.
If all reads of a backup are refused, the keys may not read, and the store's write
confirmations are all there is. If some succeed and one is refused, it is an error.
"""

from collections.abc import Callable
from typing import TypeVar

from freezer.storage.exceptions import AccessDenied, IntegrityError

T = TypeVar('T')


class ReadProbe:
    """Reads what one backup has written, and the store has confirmed."""

    def __init__(self) -> None:
        self._succeeded = False
        self._refused: AccessDenied | None = None

    def attempt(self, call: Callable[[], T]) -> T | None:
        """What the call returns; None if the store refuses the keys."""
        try:
            found = call()
        except AccessDenied as error:
            self._refused = self._refused or error
            return None
        self._succeeded = True
        return found

    @property
    def read_denied(self) -> bool:
        """Whether every read was refused: the keys are write-only.

        :raises IntegrityError: some reads succeeded, and some were refused
        """
        if self._refused is not None and self._succeeded:
            raise IntegrityError(
                f'{self._refused.message}; other objects of this backup can be read: '
                f'either this one is missing, or the keys may read only some of them'
            ) from self._refused
        return self._refused is not None
