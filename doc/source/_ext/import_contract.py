"""Directive ``.. import-contract:: NAME``: draws a layers contract.

The layers are those of ``[tool.importlinter]`` in ``pyproject.toml``, from the one that
may import all others down to the one that may import none. The arrows are the actual
imports, found by grimp. HTML gets an SVG, other builders get text.
"""

import functools
import html
import tomllib
from pathlib import Path
from typing import Any

import grimp
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[3]
PROJECT = 'pyproject.toml'

# Pixels.
_ROW, _BOX, _GAP, _LETTER, _ARC = 46, 30, 12, 7.5, 15

Layers = list[list[str]]
Arrows = list[tuple[str, str]]


def layers(name: str) -> Layers:
    """Module names, one list per layer, highest layer first.

    :raises LookupError: there is no such contract
    """
    project = tomllib.loads((ROOT / PROJECT).read_text('utf-8'))
    for contract in project['tool']['importlinter']['contracts']:
        if contract['name'] == name and contract['type'] == 'layers':
            return [
                [module.strip() for module in layer.split('|')]
                for layer in contract['layers']
            ]
    raise LookupError(f'{PROJECT} has no contract of layers with the name {name!r}')


@functools.cache
def _graph(package: str) -> Any:
    return grimp.build_graph(package, exclude_type_checking_imports=True)


def arrows(of: Layers) -> Arrows:
    """Pairs (importer, imported) in the order of the layers; submodules count as their
    parent."""
    modules = [module for layer in of for module in layer]
    graph = _graph(modules[0].partition('.')[0])
    within = {each: {each} | graph.find_descendants(each) for each in modules}
    found = []
    for importer in modules:
        imported = {
            one
            for module in within[importer]
            for one in graph.find_modules_directly_imported_by(module)
        }
        found += [
            (importer, each)
            for each in modules
            if each != importer and imported & within[each]
        ]
    return found


def svg(of: Layers, between: Arrows) -> str:
    """One row per layer, with one arc per arrow at the right."""
    prefix = _common(of)
    boxes: dict[str, tuple[float, float, float]] = {}
    for row, layer in enumerate(of):
        left = 4.0
        for module in layer:
            width = len(module.removeprefix(prefix)) * _LETTER + 20
            boxes[module] = (left, row * _ROW + 4.0, width)
            left += width + _GAP
    right = max(left + width for left, _, width in boxes.values())
    width = right + len(of) * _ARC + 24
    height = len(of) * _ROW
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="import-contract" role="img" '
        f'viewBox="0 0 {width:.0f} {height}" style="max-width: {width:.0f}px" '
        f'font-family="monospace" font-size="12">',
        f'<title>{html.escape(text(of, between))}</title>',
    ]
    for importer, imported in between:
        lines.append(_arc(boxes[importer], boxes[imported], right))
    for module, (left, top, wide) in boxes.items():
        lines += [
            f'<rect x="{left}" y="{top}" width="{wide}" height="{_BOX}" rx="4" '
            'fill="#eef3f8" stroke="#345"/>',
            f'<text x="{left + 10}" y="{top + 19}">'
            f'{html.escape(module.removeprefix(prefix))}</text>',
        ]
    return '\n'.join([*lines, '</svg>'])


def _arc(
    importer: tuple[float, float, float],
    imported: tuple[float, float, float],
    right: float,
) -> str:
    """An arc from the right edge of one box to the right edge of another."""
    from_x, from_y = importer[0] + importer[2], importer[1] + _BOX * 0.65
    to_x, to_y = imported[0] + imported[2], imported[1] + _BOX * 0.35
    out = right + (to_y - from_y) / _ROW * _ARC
    return (
        f'<path d="M {from_x} {from_y:.0f} H {right} C {out:.0f} {from_y:.0f} '
        f'{out:.0f} {to_y:.0f} {right} {to_y:.0f} H {to_x}" fill="none" '
        'stroke="#89a"/>'
        f'<path d="M {to_x} {to_y:.0f} l 7 -4 v 8 z" fill="#567"/>'
    )


def text(of: Layers, between: Arrows) -> str:
    """One line per module, followed by the modules that it imports."""
    prefix = _common(of)
    lines = []
    for layer in of:
        for module in layer:
            below = [b.removeprefix(prefix) for a, b in between if a == module]
            behind = f' -> {", ".join(below)}' if below else ''
            lines.append(module.removeprefix(prefix) + behind)
    return '\n'.join(lines)


def _common(of: Layers) -> str:
    """The common package of the modules, with a trailing dot."""
    return of[0][0].rpartition('.')[0] + '.'


class ImportContract(SphinxDirective):
    """``.. import-contract:: NAME``"""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        try:
            found = layers(self.arguments[0])
        except LookupError as error:
            raise self.error(str(error)) from error
        self.env.note_dependency(str(ROOT / PROJECT))
        between = arrows(found)
        if self.env.app.builder.format == 'html':
            box = f'<div class="wide-picture">{svg(found, between)}</div>'
            return [nodes.raw('', box, format='html')]
        return [nodes.literal_block('', text(found, between), language='text')]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive('import-contract', ImportContract)
    return {'version': '1', 'parallel_read_safe': True}
