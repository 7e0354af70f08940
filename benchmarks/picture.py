"""Draws the results of a benchmark: picture.py benchmark.json benchmark.svg."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use('svg')
mpl.rcParams['svg.hashsalt'] = 'freezer'
# Keep text as text: smaller, and searchable.
mpl.rcParams['svg.fonttype'] = 'none'

from matplotlib import pyplot  # noqa: E402

COLUMNS = 2
BARS = ((0.2, 'wall', '#3465a4'), (-0.2, 'cpu', '#f57900'))


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Wall and CPU seconds of every tool, one panel per task and store."""
    lines = -(-len(results) // COLUMNS)
    figure, panels = pyplot.subplots(
        lines, COLUMNS, figsize=(11, 2.4 * lines), squeeze=False, layout='constrained'
    )
    for panel in panels.flat[len(results) :]:
        panel.set_axis_off()
    for panel, result in zip(panels.flat, results, strict=False):
        rows = result['rows'][::-1]
        for place, what, colour in BARS:
            values = [[run[what] for run in row['runs']] for row in rows]
            medians = [statistics.median(each) for each in values]
            below = [m - min(v) for m, v in zip(medians, values, strict=True)]
            above = [max(v) - m for m, v in zip(medians, values, strict=True)]
            panel.barh(
                [number + place for number in range(len(rows))],
                medians,
                0.4,
                color=colour,
                label=f'{what} s',
                xerr=[below, above],
                error_kw={'linewidth': 0.8},
            )
        panel.set_yticks(range(len(rows)), [row['name'] for row in rows], fontsize=8)
        title = f'{result["work"]}: {result["title"]} [{result["store"]}]'
        panel.set_title(title, fontsize=8)
        panel.tick_params(axis='x', labelsize=8)
    panels.flat[0].legend(fontsize=8)
    figure.savefig(path, metadata={'Date': None})


def main() -> None:
    data, picture = map(Path, sys.argv[1:])
    results = json.loads(data.read_text())['results']
    compared = [result for result in results if len(result['rows']) > 1]
    if compared:
        draw(compared, picture)


if __name__ == '__main__':
    main()
