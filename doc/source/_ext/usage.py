"""Directive ``.. usage:: module:function``: a command's options, as in ``--help``."""

import importlib
import re

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

_MARKUP = re.compile(r'([\\*`|_<>])')


class UsageDirective(SphinxDirective):
    """One section per heading, with its options.

    The argument names a function that returns a ``freezer.common.usage.Usage``.
    """

    required_arguments = 1

    def run(self):
        module, _, function = self.arguments[0].partition(':')
        usage = getattr(importlib.import_module(module), function)()
        node = nodes.section()
        node.document = self.state.document
        lines = StringList(list(_lines(usage)), source=self.arguments[0])
        self.state.nested_parse(lines, self.content_offset, node, match_titles=1)
        return node.children


def _lines(usage):
    yield f'.. program:: {usage.prog}'
    yield ''
    for section in usage.sections:
        yield from (section.title, '-' * len(section.title), '')
        for entry in section.entries:
            value = f' {entry.metavar}' if entry.metavar else ''
            names = (*entry.names, *([entry.inverse] if entry.inverse else ()))
            yield '.. option:: ' + ', '.join(f'{name}{value}' for name in names)
            yield ''
            yield '   ' + _MARKUP.sub(r'\\\1', entry.help)
            yield ''


def setup(app):
    app.add_directive('usage', UsageDirective)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
