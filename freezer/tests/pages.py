"""Run what the documentation shows, as a reader would type it.

Every ``code-block:: console`` of a page is run, in order, in one shell. Exit codes and
output have to be those of the page. Comments, which a reader does not see, say more::

    .. run on: ceph             run what follows on this server (default: seaweedfs), in
                                a new shell and a new place
    .. run on: moto as URL      from here on the page calls the store by this URL
    .. run first:               type this, and do not show it

       echo welcome >/etc/motd

    .. file: /etc/job.conf      the next block, of any language, is this file
    .. now: 2026-01-31T23:59:59 that moment of the page is the present
    .. exit: 1                  exit code of the last command of the next block; -1: any
                                but 0
    .. run by: freezer/...      this test runs the next block; it names the page
    .. not run: a reason        nothing runs the next block

A page speaks of one machine and one store: its paths are below ``/etc``, ``/tmp`` and
the like, its store is ``https://s3.example.com``. Both are translated in what is typed
and, the other way round, in the output. A date or timestamp that the output shows is
from then on the one that was seen, also in what is typed later. Other numbers may
differ, except those below 100. ``…`` stands for anything. Line ends and the widths of
table columns do not matter.
"""

import contextlib
import dataclasses
import datetime
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import docutils.core  # type: ignore[import-untyped]
import docutils.nodes  # type: ignore[import-untyped]

from freezer.tests.agent import ROOT, environment
from freezer.tests.servers.base import REGION

SOURCE = ROOT / 'doc' / 'source'
#: a reader's terminal
COLUMNS = 80
ANY_FAILURE = -1

ENDPOINT = 'https://s3.example.com'
HOST = 'web1'
# Folders of the reader's machine that a test has elsewhere.
_FOLDER = re.compile(r'(?<![\w./:~}-])/(?=(?:etc|home|mnt|root|run|srv|tmp|var)\b)')
# What a page has in place of a key.
_KEY = re.compile(r'(?i)\b(access_key|secret_key)("?\s*[=:]\s*"?)(?:…|CHANGE_ME)')

_MOMENT = r'(?<!\d)1[67]\d{8}(?!\d)|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|(?:\+00:00)?)'
_UNIT = r'(?:bytes|B|KiB|MiB|GiB|KB|kB|MB|GB|ms|us|s|min|h)'
# What may differ -> how, in the order in which they are tried.
_VARIABLE = {
    'moment': (_MOMENT, f'({_MOMENT})'),
    'listed': (listed := r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d', listed),
    'hex': (r'(?<![0-9a-f])[0-9a-f]{16,}(?![0-9a-f])', '[0-9a-f]{16,}'),
    'rule': (rule := r'\+[-=+]+\+', rule),
    'small': (r'(?<![\d.])\d\d?(?![\d.])(?! {_UNIT}\b)', ''),
    'number': (number := rf'\d+(?:\.\d+)?(?: {_UNIT}\b)?', number),
    'any': (r'\s*…\s*', r'[\s\S]*?'),
    'space': (r'\s+', r'\s+'),
}


class PageError(Exception):
    """A page that cannot be followed."""


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of a page.

    :ivar language: ``first``: it is a comment, and typed without being shown
    :ivar where: page and about which line, for messages
    :ivar said: of the comments before it, name -> value
    """

    language: str
    text: str
    where: str
    server: str
    endpoint: str
    said: Mapping[str, str]

    @property
    def is_run(self) -> bool:
        """Whether :class:`Reader` does something with it."""
        if self.language == 'console':
            return not self.said.keys() & {'run by', 'not run'}
        return self.language == 'first' or 'file' in self.said

    def commands(self) -> Iterator[tuple[str, str]]:
        """What is typed, and what is shown as its output."""
        prompts = ('',) if self.language == 'first' else ('$ ', '# ')
        lines = self.text.splitlines()
        while lines:
            typed = lines.pop(0)
            if not typed.startswith(prompts):
                raise PageError(f'{self.where}: no prompt: {typed}')
            typed = typed.removeprefix('$ ').removeprefix('# ')
            while not _is_complete(typed):
                if not lines:
                    raise PageError(f'{self.where}: not a whole command: {typed}')
                typed += '\n' + lines.pop(0)
            output = ''
            while lines and not lines[0].startswith(prompts):
                output += lines.pop(0) + '\n'
            yield typed, output.strip('\n')


def _is_complete(typed: str) -> bool:
    """Whether a shell would not wait for more."""
    if typed.endswith(('\\', '|')):
        return False
    checked = subprocess.run(['bash', '-n', '-c', typed], capture_output=True)
    # It only warns of a here-document without its end.
    return checked.returncode == 0 and not checked.stderr


def pages() -> list[Path]:
    found = sorted(SOURCE.rglob('*.rst'))
    return [ROOT / 'README.rst', ROOT / 'CONTRIBUTING.rst', *found]


_COMMENT = re.compile(r'(?s)(run on|run first|now|file|exit|run by|not run):\s*(.*)')


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order; those after ``::`` have no language."""
    # It does not know Sphinx's directives, and reports them in blocks of its own.
    quiet = {'report_level': 5, 'halt_level': 6, 'syntax_highlight': 'none'}
    quiet['file_insertion_enabled'] = False
    document = docutils.core.publish_doctree(page.read_text(), settings_overrides=quiet)
    found: list[Block] = []
    said: dict[str, str] = {}
    server, endpoint = 'seaweedfs', ENDPOINT
    for node in document.findall(docutils.nodes.FixedTextElement):
        if isinstance(node.parent, docutils.nodes.system_message):
            continue
        where = f'{page.relative_to(ROOT)}:{node.line}'
        text = node.astext()
        classes: list[Any] = node['classes']
        if not isinstance(node, docutils.nodes.comment):
            language = classes[1] if 'code' in classes else ''
            found.append(Block(language, text, where, server, endpoint, said))
            said = {}
        elif match := _COMMENT.match(text):
            name, value = match.groups()
            if name == 'run first':
                found.append(Block('first', value, where, server, endpoint, {}))
            elif name == 'run on':
                server, _, named = value.partition(' as ')
                endpoint = named or ENDPOINT
            else:
                said[name] = value
    if said:
        raise PageError(f'{page}: no block follows {said}')
    return found


def moment(text: str) -> int:
    """Epoch seconds of a date, or of such a number."""
    if text.isdigit():
        return int(text)
    parsed = datetime.datetime.fromisoformat(text)
    return int(parsed.replace(tzinfo=parsed.tzinfo or datetime.UTC).timestamp())


class Moments:
    """Which moment is meant by one that a page shows."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def is_seen(self, shown: str, met: str) -> bool:
        """Take one for the other; False if it was another one before."""
        return self._seen.setdefault(moment(shown), moment(met)) == moment(met)

    def is_now(self, shown: str) -> None:
        self._seen[moment(shown)] = int(time.time())

    def translate(self, text: str) -> str:
        """What a reader types who has seen the output."""

        def replace(found: re.Match[str]) -> str:
            met = self._seen.get(moment(found[0]))
            if met is None:
                return found[0]
            date = datetime.datetime.fromtimestamp(met, datetime.UTC)
            iso = date.strftime('%Y-%m-%dT%H:%M:%S') + found[0][19:]
            return str(met) if found[0].isdigit() else iso

        return re.sub(_MOMENT, replace, text)


def differs(shown: str, met: str, moments: Moments) -> str:
    """How an output differs from the one that a page shows; empty if it does not."""
    shown, met = shown.strip(), met.strip()
    tokens = '|'.join(f'(?P<{name}>{each})' for name, (each, _) in _VARIABLE.items())
    pattern, position = '', 0
    named = []
    for token in re.finditer(tokens, shown):
        pattern += re.escape(shown[position : token.start()])
        position = token.end()
        kind = token.lastgroup or ''
        if kind == 'moment':
            named.append(token[0])
        pattern += _VARIABLE[kind][1] or token[0] + r'(?!\d)'
    pattern += re.escape(shown[position:])
    found = re.fullmatch(pattern, met)
    if found is None:
        return f'--- the page shows\n{shown}\n--- the output is\n{met}'
    for mine, theirs in zip(named, found.groups(), strict=True):
        if not moments.is_seen(mine, theirs):
            return f'{mine} was another moment before, and is {theirs}:\n{met}'
    return ''


class Reader:
    """Follows the pages of one server, in a place of its own.

    With ``with``: at the end it kills all that was started.

    :param root: below it are the folders that pages name
    :param store: ENDPOINT, ACCESS_KEY and SECRET_KEY of the server
    :param path: folders that are searched for commands first
    """

    def __init__(self, root: Path, store: Mapping[str, str], path: list[Path]) -> None:
        self.root = root
        self.moments = Moments()
        self._store = store
        self._endpoint = ENDPOINT
        home = root / 'root'
        home.mkdir(parents=True, exist_ok=True)
        self._shell = subprocess.Popen(
            ['bash', '--norc', '--noprofile'],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=home,
            env=environment(
                {
                    **store,
                    'AWS_ENDPOINT_URL': store['ENDPOINT'],
                    'AWS_ACCESS_KEY_ID': store['ACCESS_KEY'],
                    'AWS_SECRET_ACCESS_KEY': store['SECRET_KEY'],
                    'AWS_DEFAULT_REGION': REGION,
                    'OS_DEFAULT__HOSTNAME': HOST,
                    'CLONE': str(ROOT),
                    'PYTHON': sys.executable,
                    'PATH': ':'.join([*map(str, path), os.environ['PATH']]),
                    'HOME': str(home),
                    'TZ': 'UTC',
                }
            ),
            start_new_session=True,
        )

    def __enter__(self) -> 'Reader':
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.communicate()

    def _there(self, text: str) -> str:
        """The text of a page, as it has to be here."""
        text = text.replace(self._endpoint, self._store['ENDPOINT'])
        text = _KEY.sub(lambda it: it[1] + it[2] + self._store[it[1].upper()], text)
        return _FOLDER.sub(f'{self.root}/', self.moments.translate(text))

    def _here(self, text: str) -> str:
        """An output, as a page would show it."""
        text = text.replace(f'{self.root}/', '/')
        return text.replace(self._store['ENDPOINT'], self._endpoint)

    def follow(self, block: Block) -> None:
        """Do what a block says.

        :raises AssertionError: exit code or output are not those of the page
        """
        self._endpoint = block.endpoint
        if 'now' in block.said:
            self.moments.is_now(block.said['now'])
        if 'file' in block.said:
            path = self.root / 'root' / self._there(block.said['file'])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._there(block.text) + '\n')
            # It may hold keys.
            path.chmod(0o600)
            return
        commands = list(block.commands())
        for command in commands:
            last = command is commands[-1]
            self._type(block, *command, int(block.said.get('exit', 0)) if last else 0)

    def _type(self, block: Block, typed: str, shown: str, code: int) -> None:
        typed = self._there(typed)
        where = f'{block.where}: $ {typed}'
        if '…' in typed:
            raise PageError(f'{where}: … cannot be typed')
        output, ended = self._run(typed)
        expected = ended != 0 if code == ANY_FAILURE else ended == code
        assert expected, f'{where}\nexit code {ended}, not {code}:\n{output}'
        difference = shown and differs(shown, self._here(output), self.moments)
        assert not difference, f'{where}\n{difference}'
        # Paths are shorter on the reader's machine.
        if shown and str(self.root) not in output:
            lines = [line for line in output.splitlines() if line[:1] in '|+']
            widest = max(map(len, lines), default=0)
            assert widest <= COLUMNS, f'{where}\nthe table is too wide:\n{output}'

    def _run(self, typed: str) -> tuple[str, int]:
        """Output and exit code."""
        script, output = self.root / '.typed', self.root / '.output'
        script.write_text(typed + '\n')
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f'. {script} </dev/null >{output} 2>&1; echo $?\n')
        self._shell.stdin.flush()
        code = self._shell.stdout.readline()
        said = output.read_text(errors='backslashreplace')
        assert code, f'$ {typed}\nthe shell has ended:\n{said}'
        return said, int(code)
