"""Resources of a cloud that restores write."""

import abc
from contextlib import AbstractContextManager
from types import TracebackType

from freezer.engine.blocks.extract import ImageExtractor
from freezer.engine.blocks.state import LevelState
from freezer.engine.blocks.target import Target
from freezer.engine.engine import Restored
from freezer.utils.progress import Progress


class RestoredResource(abc.ABC):
    """Written level by level, then ended by :meth:`complete` or :meth:`discard`."""

    @abc.abstractmethod
    def opened(self, is_new: bool) -> AbstractContextManager[Target]:
        """Where to write a level.

        :param is_new: for level 0
        :raises EngineError: it cannot be created or written
        """

    @abc.abstractmethod
    def complete(self) -> Restored:
        """The resource, with all levels.

        :raises EngineError: it cannot be completed, and is to be discarded
        """

    @abc.abstractmethod
    def discard(self) -> None:
        """Delete the resource."""


class ResourceExtractor(ImageExtractor):
    """Completes the resource at the end, or discards it."""

    def __init__(
        self, resource: RestoredResource, newest: LevelState, progress: Progress
    ) -> None:
        super().__init__(resource.opened, newest, progress)
        self._resource = resource
        self._made: Restored | None = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._resource.discard()
            return
        try:
            self._made = self._resource.complete()
        except BaseException:
            self._resource.discard()
            raise

    @property
    def restored(self) -> Restored | None:
        return self._made
