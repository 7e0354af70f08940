"""What ``tools/matrix.sh`` runs, and the table of what came of it.

    python -m freezer.tests.matrix runs                     server-variant, one a line
    python -m freezer.tests.matrix table DIRECTORY [FILE]   print it; as RST to a file

The directory has the JUnit reports of pytest: ``environment-server-variant.xml``.
"""

import dataclasses
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from pathlib import Path

from freezer.tests import servers
from freezer.tests.conformance.variants import VARIANTS, combinations

#: where there is no such variant
NONE = '—'


@dataclasses.dataclass(frozen=True)
class Run:
    """What came of one run; None for both where it broke down before its end."""

    passed: int | None = None
    failed: int | None = None
    #: of botocore and urllib3
    versions: tuple[str, str] | None = None

    @property
    def good(self) -> bool:
        return self.failed == 0 and bool(self.passed)

    def __str__(self) -> str:
        if self.passed is None:
            return 'broke down'
        return f'{self.passed} passed' + (
            f', {self.failed} FAILED' if self.failed else ''
        )


def read(report: Path) -> Run:
    """What a JUnit report says."""
    try:
        suite = ET.parse(report).getroot().find('testsuite')
    except (OSError, ET.ParseError):
        return Run()
    if suite is None:
        return Run()
    failed = sum(int(suite.get(kind, 0)) for kind in ('failures', 'errors', 'skipped'))
    properties = {p.get('name'): p.get('value', '') for p in suite.iter('property')}
    versions = properties.get('botocore', '?'), properties.get('urllib3', '?')
    return Run(int(suite.get('tests', 0)) - failed, failed, versions)


def read_all(directory: Path) -> dict[tuple[str, str, str], Run]:
    """(environment, server, variant) -> run, for those that were begun."""
    found = {}
    for log in sorted(directory.glob('*.log')):
        environment, server, variant = log.stem.split('-', 2)
        found[environment, server, variant] = read(log.with_suffix('.xml'))
    return found


def rows(runs: dict[tuple[str, str, str], Run]) -> list[list[str]]:
    """The table, its header first."""
    table = [['Server', 'botocore, urllib3', *VARIANTS]]
    for server, kind in servers.KINDS.items():
        for environment in ('oldest', 'newest'):
            cells = {v: runs.get((environment, server, v)) for v in VARIANTS}
            seen = [run.versions for run in cells.values() if run and run.versions]
            if any(cells.values()):
                table.append(
                    [
                        f'{kind.title} {kind.version()}',
                        ', '.join(seen[0]) if seen else environment,
                        *(str(run) if run else NONE for run in cells.values()),
                    ]
                )
    return table


def rst(table: Sequence[Sequence[str]]) -> str:
    """A simple table of reStructuredText."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rule = '  '.join('=' * width for width in widths)

    def line(cells: Iterable[str]) -> str:
        padded = (c.ljust(w) for c, w in zip(cells, widths, strict=True))
        return '  '.join(padded).rstrip()

    header, *body = table
    return '\n'.join([rule, line(header), rule, *map(line, body), rule]) + '\n'


def main(arguments: Sequence[str]) -> int:
    """Return 0 if every run was good, and there was one."""
    match arguments:
        case ['runs']:
            for server, variant in combinations():
                print(f'{server}-{variant}')
            return 0
        case ['table', directory, *files] if len(files) < 2:
            runs = read_all(Path(directory))
            text = rst(rows(runs))
            print(text)
            for file in files:
                Path(file).write_text(text)
            return 0 if runs and all(run.good for run in runs.values()) else 1
    sys.exit(__doc__)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
