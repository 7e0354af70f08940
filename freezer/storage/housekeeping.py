"""What a clean-up reports."""

from dataclasses import dataclass

from freezer.utils import human


@dataclass(frozen=True)
class Leftover:
    """The remains of one backup that was never committed. Size in bytes.

    :param what: where it is, for people
    """

    what: str
    objects: int
    uploads: int
    size: int

    def __bool__(self) -> bool:
        return bool(self.objects or self.uploads)

    def __str__(self) -> str:
        return (
            f'{self.what}: {human.number(self.objects, "object")} and '
            f'{human.number(self.uploads, "open upload")}, {self.size} bytes'
        )


@dataclass(frozen=True)
class OldVersions:
    """Versions that were deleted or overwritten, and are kept. Size in bytes."""

    where: str
    count: int
    size: int
    purged: bool


@dataclass(frozen=True)
class CleanUpReport:
    """What was removed, or would be in a dry run; and what is kept."""

    leftovers: tuple[Leftover, ...] = ()
    old_versions: tuple[OldVersions, ...] = ()
