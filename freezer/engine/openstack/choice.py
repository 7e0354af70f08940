"""Which resources of a cloud a backup has: images, volumes or servers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from freezer.exceptions import CloudError
from freezer.utils.text import NOTICES

#: a resource, as its service shows it
Record = Mapping[str, Any]

# In an error.
_NAMED: Final = 10


@dataclass(frozen=True)
class Choice:
    """
    :param kind: its name for the user, such as ``volume``
    :param option: which takes its ID
    :param empty: statuses in which it has no data yet, or none any more
    """

    kind: str
    option: str
    empty: Sequence[str]

    def only(self, name: str, found: Iterable[Record]) -> str:
        """The ID of the resource with a name.

        :raises CloudError: there is none, or there are several
        """
        ids = sorted(str(each['id']) for each in found if each['name'] == name)
        if not ids:
            raise CloudError(f'no {self.kind} has the name {name!r}')
        if len(ids) > 1:
            raise CloudError(
                f'{len(ids)} {self.kind}s have the name {name!r}: pass --{self.option} '
                f'with one of {", ".join(ids[:_NAMED])}'
            )
        return ids[0]

    def with_data(self, found: Iterable[tuple[Record, str]], where: str) -> list[str]:
        """The IDs of the resources that have data; of each other one, a warning.

        :param found: resources, and the name of each for the user
        :param where: which they are, for the error
        :raises CloudError: none has data
        """
        ids = []
        for record, name in found:
            status = record['status']
            if status in self.empty:
                NOTICES.warning('%s is %s and has no data: left out', name, status)
            else:
                ids.append(str(record['id']))
        if not ids:
            raise CloudError(f'no {self.kind}{where} that has data')
        return sorted(ids)
