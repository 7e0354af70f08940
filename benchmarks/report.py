"""The results as a table, as JSON and as a picture."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench import Result, Row
from benchmarks.peers import HERE


def machine() -> str:
    """The machine in one line."""
    cpu = 'unknown processor'
    for line in Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            cpu = line.partition(':')[2].strip()
            break
    pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return (
        f'{os.cpu_count()} x {cpu}, {pages / 2**30:.0f} GiB, '
        f'Linux {platform.release().split("-")[0]}, Python {platform.python_version()}'
    )


def table(results: Sequence[Result]) -> str:
    """A text table with every tool and the targets."""
    lines = []
    for result in results:
        lines.append(f'{result.work}  {result.title}  [{result.store}]')
        lines.append(
            f'    {"":24} {"wall s (min-max)":>22} {"CPU s (min-max)":>22} '
            f'{"peak MiB":>9} {"wall":>6} {"CPU":>6}'
        )
        lines += [_line(row, result.rows[0]) for row in result.rows]
        for check in result.checks:
            sign = '>=' if check.least else '<='
            verdict = 'pass' if check.passed else 'MISS'
            lines.append(
                f'    {verdict}  {check.what}: {check.value:.2f} {sign} {check.limit:g}'
            )
        lines += [f'    {note}' for note in result.notes]
        lines.append('')
    works: dict[str, bool] = {}
    for result in results:
        works[result.work] = works.get(result.work, True) and result.passed
    verdicts = '  '.join(f'{w} {"pass" if ok else "MISS"}' for w, ok in works.items())
    lines.append(f'{sum(works.values())} of {len(works)} pass:  {verdicts}')
    return '\n'.join(lines)


def _line(row: Row, first: Row) -> str:
    def spread(what: str) -> str:
        low, high = row.range(what)
        return f'{row.median(what):.2f} ({low:.2f}-{high:.2f})'

    ratios = [row.median(what) / first.median(what) for what in ('wall', 'cpu')]
    return (
        f'    {row.name:24} {spread("wall"):>22} {spread("cpu"):>22} '
        f'{row.median("peak"):9.0f} {ratios[0]:6.2f} {ratios[1]:6.2f}'
    )


def document(results: Sequence[Result]) -> dict[str, Any]:
    """The results for programs."""
    return {
        'machine': machine(),
        'results': [
            {
                'work': result.work,
                'title': result.title,
                'store': result.store,
                'passed': result.passed,
                'rows': [
                    {
                        'name': row.name,
                        'runs': [vars(cost) for cost in row.costs],
                    }
                    for row in result.rows
                ],
                'checks': [
                    vars(check) | {'passed': check.passed} for check in result.checks
                ],
                'notes': result.notes,
            }
            for result in results
        ],
    }


def write(results: Sequence[Result], folder: Path, python: str | None) -> None:
    """Write ``benchmark.txt``, ``benchmark.json``, and ``benchmark.svg``.

    :param python: a Python with matplotlib; without one, no picture is drawn
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'benchmark.txt').write_text(f'{machine()}\n\n{table(results)}\n')
    data = folder / 'benchmark.json'
    data.write_text(json.dumps(document(results), indent=1) + '\n')
    if python is not None:
        script, picture = HERE / 'picture.py', folder / 'benchmark.svg'
        subprocess.run([python, script, data, picture], check=True)
