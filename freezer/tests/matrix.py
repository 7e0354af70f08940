"""The runs of ``tools/matrix.sh``, and the table of their results.

    python -m freezer.tests.matrix runs                     server-variant, one a line
    python -m freezer.tests.matrix table DIRECTORY [FILE]   print it; as RST to a file

The directory has logs, and JUnit reports of pytest: ``environment-server-variant.xml``.
"""

import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from freezer.tests import servers
from freezer.tests.conformance.variants import VARIANTS, combinations


def read(report: Path) -> tuple[str, str]:
    """Result and versions of a run."""
    try:
        suite = ET.parse(report).getroot().find('testsuite')
    except (OSError, ET.ParseError):
        suite = None
    if suite is None:
        return 'FAILED before its end', ''
    failed = sum(int(suite.get(kind, 0)) for kind in ('failures', 'errors', 'skipped'))
    passed = int(suite.get('tests', 0)) - failed
    found = {p.get('name'): p.get('value', '') for p in suite.iter('property')}
    versions = ', '.join(found.get(name, '?') for name in ('botocore', 'urllib3'))
    is_good = passed and not failed
    return f'{passed} passed' + ('' if is_good else f', {failed} FAILED'), versions


def rows(directory: Path) -> list[list[str]]:
    """The table, its header first."""
    # A run that was started has a log.
    runs = {log.stem: read(log.with_suffix('.xml')) for log in directory.glob('*.log')}
    table = [['Server', 'botocore, urllib3', *VARIANTS]]
    for server, kind in servers.KINDS.items():
        for environment in ('oldest', 'newest'):
            names = [f'{environment}-{server}-{variant}' for variant in VARIANTS]
            versions = [runs[name][1] for name in names if name in runs]
            if versions:
                results = [runs.get(name, '—')[0] for name in names]
                title = f'{kind.title} {kind.version()}'
                table.append([title, max(versions) or environment, *results])
    return table


def rst(table: Sequence[Sequence[str]]) -> str:
    """A simple table of reStructuredText."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rule = '  '.join('=' * width for width in widths)
    lines = [
        '  '.join(map(str.ljust, row, widths)).rstrip() for row in (*table, [rule])
    ]
    return '\n'.join([rule, lines[0], rule, *lines[1:]]) + '\n'


def main(arguments: Sequence[str]) -> int:
    """Return 0 if every run was good, and there was one."""
    match arguments:
        case ['runs']:
            for server, variant in combinations():
                print(f'{server}-{variant}')
            return 0
        case ['table', directory, *files] if len(files) < 2:
            table = rows(Path(directory))
            print(text := rst(table))
            for file in files:
                Path(file).write_text(text)
            return 1 if len(table) == 1 or 'FAILED' in text else 0
    sys.exit(__doc__)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
