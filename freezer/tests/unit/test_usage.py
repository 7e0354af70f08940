"""--help of both commands, and what is made of the same: manual pages, completions,
sample configurations."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from freezer.common import opts, usage
from freezer.common.usage import Entry
from freezer.scheduler import options as scheduler_options
from freezer.tests.agent import ROOT
from freezer.tests.commands import run_command
from freezer.utils.types import Date, Duration, Size

USAGES = {
    'freezer-agent': opts.help_usage(),
    'freezer-scheduler': scheduler_options.help_usage(),
}
BOTH = pytest.mark.parametrize('command', USAGES)
DECLARED: dict[str, Any] = {
    'freezer-agent': opts.list_opts(),
    'freezer-scheduler': scheduler_options.list_opts(),
}


def entries(command: str) -> list[Entry]:
    return [entry for part in USAGES[command].sections for entry in part.entries]


def names(command: str) -> list[str]:
    return [
        name
        for entry in entries(command)
        for name in (*entry.names, *([entry.inverse] if entry.inverse else []))
    ]


def parsed(command: str) -> set[str]:
    """Names that the parser takes, by oslo.config."""
    declare: dict[str, Any] = {
        'freezer-agent': opts.declare,
        'freezer-scheduler': scheduler_options.declare,
    }
    conf = declare[command]()
    words = {'freezer-agent': ['--quiet'], 'freezer-scheduler': ['status']}[command]
    conf(words, default_config_files=[], default_config_dirs=[])
    return set(conf._oparser._option_string_actions)


@BOTH
def test_every_name_is_one_of_the_parser(command: str) -> None:
    # main answers that one.
    assert set(names(command)) - {'--version'} <= parsed(command)


@BOTH
def test_every_option_is_there_once(command: str) -> None:
    there = names(command)
    assert len(there) == len(set(there))
    for group, options in DECLARED[command]:
        for option in options:
            prefix = f'{group}-' if group else ''
            assert f'--{prefix}{option.name}' in there
            assert option.short is None or f'-{option.short}' in there


def test_headings_stand_before_options_there_are() -> None:
    assert set(opts.HEADINGS) <= {option.name for option in opts.AGENT_OPTS}
    assert opts.AGENT_OPTS[0].name in opts.HEADINGS


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


@BOTH
@pytest.mark.parametrize('columns, limit', [('', 80), ('80', 80), ('300', 100)])
def test_help_fits_the_terminal(
    command: str, columns: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('COLUMNS', columns)
    assert limit - 10 < widest(usage.text(USAGES[command])) <= limit


@BOTH
def test_options_fit_a_narrow_terminal(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands around them is made for 80 columns."""
    monkeypatch.setenv('COLUMNS', '60')
    said = usage.text(USAGES[command])
    epilog = USAGES[command].epilog.splitlines()[0]
    assert widest(said[said.index('\n  -') : said.index(epilog)]) <= 60


@BOTH
@pytest.mark.parametrize('argument', ['--help', '-h'])
def test_help_is_what_the_commands_say(
    command: str, argument: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('COLUMNS', '80')
    script = Path(sys.executable).parent / command
    # Behind others, too: who asks has most of it typed.
    ended = run_command(script, '--debug', argument)
    assert (ended.returncode, ended.stderr) == (0, '')
    assert ended.stdout == usage.text(USAGES[command])


@pytest.mark.parametrize(
    'option, expected',
    [
        (
            cfg.StrOpt('a-name', short='N', help='Of it.'),
            Entry(('-N', '--a-name'), 'NAME', 'Of it.'),
        ),
        (
            cfg.StrOpt('do', choices=[('a', 'this'), ('b', 'that')], help='What.'),
            Entry(('--do',), 'DO', 'What.', ('a', 'b')),
        ),
        (
            cfg.BoolOpt('dry', default=False, help='Dry.'),
            Entry(('--dry',), '', 'Dry.', inverse='--nodry'),
        ),
        (
            cfg.MultiStrOpt('exclude', default=[], metavar='PATTERN', help='No.'),
            Entry(('--exclude',), 'PATTERN', 'No.', many=True),
        ),
        (
            cfg.Opt('part', type=Size(), default=8 << 20, help='Bytes.'),
            Entry(('--part',), 'SIZE', 'Bytes. Default: 8M.'),
        ),
        (
            cfg.Opt('limit', type=Size(), default=-1, help='Bytes. -1: none.'),
            Entry(('--limit',), 'SIZE', 'Bytes. -1: none.'),
        ),
        (
            cfg.FloatOpt('wait', default=10.0, help='Seconds.'),
            Entry(('--wait',), 'N', 'Seconds. Default: 10.'),
        ),
        (
            cfg.IntOpt('parts', default=3, help='At most. Default: many.'),
            Entry(('--parts',), 'N', 'At most. Default: many.'),
        ),
        (
            cfg.Opt('since', type=Date(until=True), help='When.'),
            Entry(('--since',), 'DATE', 'When.'),
        ),
        (
            cfg.Opt('age', type=Duration(), help='Of\n it.'),
            Entry(('--age',), 'TIME', 'Of it.'),
        ),
    ],
)
def test_how_an_option_is_written(option: Any, expected: Entry) -> None:
    assert usage.entry(option, None) == expected


def test_how_an_option_of_a_group_is_written() -> None:
    how = cfg.StrOpt('mode', choices=['a', 'b:c'], default='a', help='How.')
    said = 'How. One of: a, b:c. Default: a.'
    expected = Entry(('--s3-mode',), 'MODE', said, ('a', 'b:c'))
    assert usage.entry(how, 's3') == expected
    said = 'Make. On by default; --s3-nomake turns it off.'
    expected = Entry(('--s3-make',), '', said, inverse='--s3-nomake')
    assert (
        usage.entry(cfg.BoolOpt('make', default=True, help='Make.'), 's3') == expected
    )


def test_signs_of_formats_stay_as_they_are() -> None:
    section = usage.Section('Part', (Entry(('--x',), 'X', '100 % of %(prog)s.'),))
    said = usage.text(usage.Usage('it', 'it …', 'It.', (section,), 'End.'))
    assert '100 % of %(prog)s.' in said
    assert said.startswith('usage: it …\n\nIt.\n\nPart:\n  --x X')


@BOTH
def test_paths_are_known_as_paths(command: str) -> None:
    """So that shells complete them."""
    for entry in entries(command):
        last = entry.names[-1].rpartition('-')[2]
        if last in ('file', 'dir', 'path') and entry.metavar != usage.PATH:
            kinds = {'file': usage.FILE, 'dir': usage.DIRECTORY}
            assert entry.metavar == kinds.get(last, entry.metavar)
            assert entry.metavar in (usage.FILE, usage.DIRECTORY)


def test_what_is_generated_is_up_to_date() -> None:
    ended = run_command(sys.executable, 'tools/generate.py', '--check', cwd=ROOT)
    assert (ended.returncode, ended.stdout) == (0, ''), ended.stderr


def page(command: str) -> str:
    return (ROOT / f'doc/source/cli/{command}.rst').read_text(encoding='utf-8')


def test_the_manual_has_every_action_and_command() -> None:
    for command, names in (
        ('freezer-agent', opts.ACTIONS),
        ('freezer-scheduler', scheduler_options.COMMANDS),
    ):
        described = re.findall(r'^``(\w+)``$', page(command), re.MULTILINE)
        assert [name for name in names if name not in described] == []


def test_the_reference_shows_the_options_of_both() -> None:
    text = (ROOT / 'doc/source/reference/options.rst').read_text(encoding='utf-8')
    shown = re.findall(r'^   (freezer[\w.]*)$', text, re.MULTILINE)
    assert shown == ['freezer', 'freezer.scheduler']
