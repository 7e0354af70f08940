"""The base class that Freezer 19's drivers have, with its constructor."""

from freezer.storage.base import Storage


class PhysicalStorage(Storage):
    """A container, and the size in which streams are cut.

    :param storage_path: the container
    :param max_segment_size: bytes of a segment or part
    """

    def __init__(
        self, storage_path: str, max_segment_size: int, skip_prepare: bool = False
    ) -> None:
        self.storage_path = storage_path
        self.max_segment_size = max_segment_size
        if not skip_prepare:
            self.prepare()
