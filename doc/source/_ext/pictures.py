"""Directives of the drawn pictures and of the recorded terminal.

``.. picture:: NAME`` draws a picture of :mod:`drawings` into the page, so that it has
the colours of the page, light or dark, and text that can be searched. The content of
the directive describes the picture to readers who cannot see it; other builders than
HTML show the description alone.

``.. terminal:: FILE`` draws a recording, ``FILE`` below ``doc/source``. Other builders
get its last screen.
"""

import html
from pathlib import Path
from typing import Any

import drawings
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from freezer.tests import recording


class Picture(SphinxDirective):
    """``.. picture:: NAME``"""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if not self.content:
            raise self.error(f'picture {name}: no description')
        if name not in drawings.DRAWINGS:
            raise self.error(f'no picture {name!r}')
        self.env.note_dependency(drawings.__file__)
        text = ' '.join(line for line in self.content if line)
        if self.env.app.builder.format != 'html':
            return [nodes.paragraph('', text)]
        drawn = drawings.DRAWINGS[name]()
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="picture" role="img" '
            f'viewBox="0 0 {drawn.width} {drawn.height}" '
            f'aria-label="{html.escape(text)}">'
        )
        return [nodes.raw('', '\n'.join([head, *drawn.lines, '</svg>']), format='html')]


class Terminal(SphinxDirective):
    """``.. terminal:: FILE``"""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir, self.arguments[0])
        self.env.note_dependency(str(path))
        self.env.note_dependency(recording.__file__)
        recorded = recording.load(path)
        session = recording.session(recorded)
        if self.env.app.builder.format != 'html':
            return [nodes.literal_block('', session, language='console')]
        drawn = recording.svg(recorded, recorded[0]['title'])
        box = f'<div class="wide-picture">{drawn}</div>'
        return [
            nodes.raw('', box, format='html'),
            nodes.raw('', _as_text(session), format='html'),
        ]


def _as_text(session: str) -> str:
    """For readers who cannot see the picture, or copy from it."""
    return (
        '<details class="as-text"><summary>The same as text</summary>'
        f'<div class="highlight"><pre>{html.escape(session)}</pre></div></details>'
    )


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive('picture', Picture)
    app.add_directive('terminal', Terminal)
    return {'version': '1', 'parallel_read_safe': True}
