"""What keys that may only write are not shown of what they wrote.

A store refuses them each look, with 403. To keys that may read and not list it refuses
what is not there in the same way. So one refusal says nothing of an object; nothing but
refusals says that the keys may not look, and then what the store confirmed is all that
is known; and a refusal beside something that is shown is never taken for that.
"""

from collections.abc import Callable
from typing import TypeVar

from freezer.storage.exceptions import AccessDenied, IntegrityError

T = TypeVar('T')


class ReadProbe:
    """Looks at what one backup has written, and the store has confirmed."""

    def __init__(self) -> None:
        self._shown = False
        self._refused: AccessDenied | None = None

    def attempt(self, call: Callable[[], T]) -> T | None:
        """What the call returns; None where the keys are refused."""
        try:
            found = call()
        except AccessDenied as error:
            self._refused = self._refused or error
            return None
        self._shown = True
        return found

    @property
    def read_denied(self) -> bool:
        """Whether the keys may not look.

        :raises IntegrityError: some was shown, and some refused
        """
        if self._refused is not None and self._shown:
            raise IntegrityError(
                f'{self._refused.message}; other objects of this backup are shown: '
                f'either this one is missing, or the keys may read some of them only'
            ) from self._refused
        return self._refused is not None
