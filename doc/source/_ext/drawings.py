"""The pictures of the documentation, drawn from the data below.

A picture is as wide as a phone, so that its text is readable there. Classes are those
of ``_static/freezer.css``.
"""

import html
from collections.abc import Callable, Sequence

WIDTH = 380
_LINE = 18


class Drawing:
    """Lines of SVG, and the height of the drawing."""

    width = WIDTH

    def __init__(self, height: int) -> None:
        self.height = height
        self.lines: list[str] = []

    def text(self, x: float, y: float, text: str, kind: str = '') -> None:
        """:param kind: classes: ``small``, ``bold``, ``middle``, ``on-full``"""
        classes = f' class="{kind}"' if kind else ''
        self.lines.append(f'<text x="{x}" y="{y}"{classes}>{html.escape(text)}</text>')

    def box(
        self,
        place: tuple[float, float, float, float],
        kind: str,
        text: Sequence[str] = (),
    ) -> None:
        """A rectangle (left, top, width, height) with centred text; the first line of
        several is bold."""
        left, top, width, height = place
        self.lines.append(
            f'<rect class="{kind}" x="{left}" y="{top}" width="{width}" '
            f'height="{height}" rx="4"/>'
        )
        first = top + height / 2 - (len(text) - 1) * _LINE / 2 + 4.5
        on = ' on-full' if 'full' in kind.split() else ''
        for number, line in enumerate(text):
            bold = ' bold' if len(text) > 1 and number == 0 else ''
            middle = left + width / 2
            self.text(middle, first + number * _LINE, line, f'middle{bold}{on}')

    def arrow(self, *points: tuple[float, float], kind: str = '') -> None:
        """A line through points, with a head at the last one."""
        path = 'M ' + ' L '.join(f'{x} {y}' for x, y in points)
        self.lines.append(f'<path class="arrow {kind}" d="{path}"/>')
        (from_x, from_y), (x, y) = points[-2:]
        along = (x > from_x) - (x < from_x), (y > from_y) - (y < from_y)
        across = along[1], along[0]
        corners = [
            (
                x - 8 * along[0] + side * 4 * across[0],
                y - 8 * along[1] + side * 4 * across[1],
            )
            for side in (1, -1)
        ]
        triangle = ' '.join(f'{a} {b}' for a, b in [(x, y), *corners])
        self.lines.append(f'<polygon class="head {kind}" points="{triangle}"/>')

    def lock(self, x: float, y: float) -> None:
        """A padlock, 12 wide, with its centre there."""
        self.lines.append(
            f'<path class="lock" d="M {x - 4} {y - 1} v -3 a 4 4 0 0 1 8 0 v 3" '
            'fill="none"/>'
        )
        self.lines.append(
            f'<rect class="lock-body" x="{x - 6}" y="{y - 1}" width="12" height="9" '
            'rx="2"/>'
        )


# A chain

_DAYS = ('Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun')
# Weeks and days count from 0. It is Friday of the last week; 30 days ago it was
# Wednesday of the second.
_WEEKS, _TODAY, _KEPT_DAYS = 6, 39, 30
_RESTORED = 4 * 7 + 3


def chain() -> Drawing:
    """Chains of one level 0 and six increments, by ``--restart-always-level 6.9`` and
    ``--remove-older-than 30``."""
    left, step, row, top = 62, 45.5, 40, 30
    drawing = Drawing(top + _WEEKS * row + 186)
    for day, name in enumerate(_DAYS):
        drawing.text(left + day * step + 20, 18, name, 'middle')
    cutoff = _TODAY - _KEPT_DAYS
    for week in range(_WEEKS):
        y = top + week * row
        drawing.text(0, y + 20, f'week {week + 1}')
        last = min(week * 7 + 6, _TODAY)
        for day in range(week * 7, last + 1):
            level = day % 7
            if last < cutoff:
                kind = 'gone'
            elif day < cutoff:
                kind = 'old full-old' if level == 0 else 'old'
            else:
                kind = 'full' if level == 0 else 'increment'
            if week == _RESTORED // 7 and day <= _RESTORED:
                kind += ' chosen'
            place = (left + level * step, y, 40, 30)
            drawing.box(place, kind, [str(level)])
    x, y = left + cutoff % 7 * step - 2.75, top + cutoff // 7 * row
    drawing.lines.append(f'<path class="cutoff" d="M {x} {y - 5} v 40"/>')
    y = top + _WEEKS * row + 6 + 5 * 30
    drawing.lines.append(f'<path class="cutoff" d="M 22 {y} v 24"/>')
    drawing.text(52, y + 17, '30 days ago')
    legend = (
        ('full', '0', 'level 0: everything'),
        ('increment', '1', 'increment: what changed since the day before'),
        ('increment chosen', '1', 'read to restore Thursday of week 5'),
        ('old', '1', 'older than 30 days, but Sunday needs it'),
        ('gone', '1', 'removed: the whole chain is older'),
    )
    for number, (kind, level, text) in enumerate(legend):
        y = top + _WEEKS * row + 6 + number * 30
        drawing.box((2, y, 40, 24), kind, [level])
        drawing.text(52, y + 17, text)
    return drawing


# Agent, store and scheduler


def parts() -> Drawing:
    """Who talks to whom."""
    drawing = Drawing(424)
    drawing.box((1, 1, 378, 250), 'group')
    drawing.text(14, 24, 'your machine', 'bold')
    drawing.box((14, 40, 160, 54), 'part', ['job files', 'what, where, when'])
    drawing.box((206, 40, 160, 54), 'part', ['files', '/etc, /srv, /home'])
    drawing.box(
        (14, 156, 160, 72),
        'program',
        ['freezer-scheduler', 'starts, retries,', 'reports'],
    )
    drawing.box(
        (206, 156, 160, 72), 'program', ['freezer-agent', 'compresses,', 'encrypts']
    )
    drawing.arrow((94, 94), (94, 154))
    drawing.arrow((174, 192), (204, 192))
    drawing.arrow((262, 94), (262, 154))
    drawing.text(256, 128, 'backup', 'end')
    drawing.arrow((310, 156), (310, 96))
    drawing.text(316, 128, 'restore')
    drawing.box((14, 318, 160, 54), 'optional', ['freezer-api', 'optional'])
    drawing.arrow((94, 318), (94, 230))
    drawing.text(88, 292, 'jobs', 'end')
    drawing.arrow((262, 228), (262, 316))
    drawing.arrow((310, 318), (310, 230))
    drawing.text(286, 292, 'HTTPS', 'middle halo')
    drawing.box((206, 318, 160, 104), 'store', [])
    drawing.text(286, 338, 'S3 store', 'middle bold')
    drawing.text(286, 358, 'data and digests', 'middle')
    drawing.text(286, 378, 'index of the files', 'middle')
    drawing.text(286, 406, 'marker: written last', 'middle')
    drawing.lines.append('<path class="rule" d="M 216 388 h 140"/>')
    return drawing


# An attack

_ATTACK = (
    (
        '',
        ['Sunday: the agent makes a', 'backup. Each object is locked', 'for 37 days.'],
    ),
    (
        'bad',
        [
            'Monday: an attacker takes',
            'over the machine and its keys,',
            'and deletes the backups.',
        ],
    ),
    (
        'bad',
        [
            'The attacker deletes the',
            'hidden version: refused.',
            'Shortens its lock: refused.',
        ],
    ),
    (
        'good',
        [
            'Tuesday: with other keys you',
            'delete what hides the backup,',
            'and restore Sunday.',
        ],
    ),
)


def attack() -> Drawing:
    """Four moments: what happens, and what the bucket holds then."""
    row = 106
    drawing = Drawing(6 + len(_ATTACK) * row)
    drawing.text(0, 15, 'What happens', 'bold')
    drawing.text(252, 15, 'In the bucket', 'bold')
    for number, (kind, lines) in enumerate(_ATTACK):
        y = 26 + number * row
        drawing.box((1, y, 226, 78), f'event {kind}')
        for index, line in enumerate(lines):
            drawing.text(11, y + 24 + index * 19, line)
        if number + 1 < len(_ATTACK):
            drawing.arrow((106, y + 78), (106, y + row - 2))
        hidden = kind == 'bad'
        drawing.box((252, y + 38, 127, 40), 'increment', [])
        drawing.lock(270, y + 57)
        drawing.text(286, y + 62, 'backup')
        if hidden:
            drawing.box((252, y, 127, 34), 'gone', ['delete marker'])
    return drawing


DRAWINGS: dict[str, Callable[[], Drawing]] = {
    'chain': chain,
    'parts': parts,
    'attack': attack,
}
