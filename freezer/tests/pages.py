"""The documentation as its readers meet it: they type what a page shows.

Every ``code-block:: console`` of a page is run, in order, in one shell, and has to end
and answer as the page says. Comments, which the reader does not see, say the rest::

    .. run on: ceph             what follows is run on this server (seaweedfs), in a new
                                shell and a new place
    .. run on: moto as URL      the page's name of the store is another one from here on
    .. run first:               typed in this place, and not shown

       echo welcome >/etc/motd

    .. file: /etc/job.conf      the next block, of any language, is what is in this file
    .. now: 2026-01-31T23:59:59 that moment of the page is the present
    .. exit: 1                  with what the last command of the next block ends; -1:
                                not with 0
    .. run by: freezer/...      this test runs the next block; it names the page
    .. not run: a reason        nobody does

A page speaks of one machine and one store: paths are below ``/etc``, ``/tmp`` and the
like, the store is ``https://s3.example.com``. Here they are others, in what is typed
and, the other way round, in what is answered. Moments are as well: one that an answer
shows, as a date or as a number of seconds, is from then on the one that was seen, and
what is typed later has that. Other numbers may differ, but for those below 100. ``…``
stands for anything, and ends of lines and columns of tables do not matter.
"""

import codecs
import contextlib
import dataclasses
import datetime
import os
import re
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from freezer.tests.agent import ROOT, environment
from freezer.tests.servers.base import REGION

SOURCE = ROOT / 'doc' / 'source'
#: what is shown has to fit in a terminal of so many columns
COLUMNS = 80
TIMEOUT = 300
ANY_FAILURE = -1

ENDPOINT = 'https://s3.example.com'
HOST = 'web1'
DEFAULT_SERVER = 'seaweedfs'
_PROMPTS = ('$ ', '# ')
# Folders of the reader's machine that a test has elsewhere.
_FOLDER = re.compile(r'(?<![\w./:~}-])/(?=(?:etc|home|mnt|root|run|srv|tmp|var)\b)')
# What a page has in place of a key.
_KEY = re.compile(r'(?i)\b(access_key|secret_key)("?\s*[=:]\s*"?)(?:…|CHANGE_ME)')

_EPOCH = r'(?<!\d)1[67]\d{8}(?!\d)'
_DATE = r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|(?:\+00:00)?)'
_LISTED = r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d'
_UNIT = r'(?:bytes|B|KiB|MiB|GiB|KB|kB|MB|GB|ms|us|s|min|h)'
_HEX = r'(?<![0-9a-f])[0-9a-f]{16,}(?![0-9a-f])'
_NUMBER = rf'\d+(?:\.\d+)?(?: {_UNIT}\b)?'
_RULE = r'\+[-=+]+\+'
_VARIABLE = re.compile(
    rf'(?P<moment>{_EPOCH}|{_DATE})|(?P<listed>{_LISTED})|(?P<hex>{_HEX})'
    rf'|(?P<rule>{_RULE})|(?P<number>{_NUMBER})|(?P<any>\s*…\s*)|(?P<space>\s+)'
)


@dataclasses.dataclass(frozen=True)
class Command:
    """What is typed, and what the page shows of the answer."""

    typed: str
    answer: str
    line: int


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of a page, with what comments say of it.

    :param language: ``hidden``, if the block is a comment
    :param line: of the page, the first of the block
    :param server: on which it is run
    :param endpoint: what the page calls it
    """

    language: str
    text: str
    line: int
    server: str
    endpoint: str = ENDPOINT
    now: str = ''
    file: str = ''
    exit: int = 0
    run_by: str = ''
    reason: str = ''

    @property
    def is_run(self) -> bool:
        """Whether :class:`Reader` does something with it."""
        if self.language == 'console':
            return not (self.run_by or self.reason)
        return self.language == 'hidden' or bool(self.file)

    def commands(self) -> list[Command]:
        """What is typed, line by line, each with its answer."""
        lines = self.text.splitlines()
        found: list[Command] = []
        number = 0
        while number < len(lines):
            if not lines[number].startswith(_PROMPTS):
                raise PageError(self.line + number, 'a block begins with a prompt')
            begun = number
            lines[number] = lines[number][2:]
            typed, number = _one_command(lines, number, self.line)
            answer = []
            while number < len(lines) and not lines[number].startswith(_PROMPTS):
                answer.append(lines[number])
                number += 1
            found.append(Command(typed, '\n'.join(answer), self.line + begun))
        return found

    def hidden_commands(self) -> list[Command]:
        """What is typed without a prompt, and no answer is shown."""
        lines = self.text.splitlines()
        found: list[Command] = []
        number = 0
        while number < len(lines):
            typed, number = _one_command(lines, number, self.line)
            found.append(Command(typed, '', self.line))
        return found


def _one_command(lines: list[str], begun: int, line: int) -> tuple[str, int]:
    """The lines of one command, and where it ends."""
    for end in range(begun + 1, len(lines) + 1):
        typed = '\n'.join(lines[begun:end])
        if _is_complete(typed):
            return typed, end
    raise PageError(line + begun, 'a command without its end')


class PageError(Exception):
    """A page that cannot be followed."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(f'line {line}: {what}')


def _is_complete(typed: str) -> bool:
    """Whether a shell would not wait for more."""
    if typed.endswith(('\\', '|')):
        return False
    checked = subprocess.run(['bash', '-n', '-c', typed], capture_output=True)
    # Of a here-document without its end it only warns.
    return checked.returncode == 0 and not checked.stderr


def pages() -> list[Path]:
    """Every page there is."""
    found = sorted(SOURCE.rglob('*.rst'))
    return [ROOT / 'README.rst', ROOT / 'CONTRIBUTING.rst', *found]


_NAMES = 'run on|run first|now|file|exit|run by|not run'
_COMMENT = re.compile(rf'\.\. ({_NAMES}):(?: (.*))?$')
_CODE = re.compile(r'( *)\.\. code-block:: (\w+)$')


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in order; literal ones (``::``) have no language."""
    lines = page.splitlines()
    found: list[Block] = []
    said: dict[str, str] = {}
    server, endpoint = DEFAULT_SERVER, ENDPOINT
    number = 0
    while number < len(lines):
        line = lines[number]
        comment, code = _COMMENT.match(line.strip()), _CODE.match(line)
        indent = len(line) - len(line.lstrip())
        literal = line.endswith('::') and not line.lstrip().startswith('.. ')
        number += 1
        if comment:
            name, value = comment[1], comment[2] or ''
            text, begin, number = _indented(lines, number, indent)
            if name == 'run first':
                found.append(Block('hidden', text, begin + 1, server, endpoint))
                continue
            value = f'{value} {text}'.strip()
            if name == 'run on':
                server, _, named = value.partition(' as ')
                endpoint = named or ENDPOINT
            else:
                said[name] = value
        elif code or literal:
            text, begin, number = _indented(lines, number, indent)
            found.append(
                Block(
                    code[2] if code else '',
                    text,
                    begin + 1,
                    server,
                    endpoint,
                    said.get('now', ''),
                    said.get('file', ''),
                    int(said.get('exit', 0)),
                    said.get('run by', ''),
                    said.get('not run', ''),
                )
            )
            said = {}
        elif line.strip() and said:
            raise PageError(number, f'no block follows {", ".join(said)}')
    return found


def _indented(lines: list[str], number: int, indent: int) -> tuple[str, int, int]:
    """What is indented by more, without that, where it begins, and where it ends."""
    begin = end = number
    inner: list[str] = []
    while number < len(lines):
        line = lines[number]
        if line.strip() and len(line) - len(line.lstrip()) <= indent:
            break
        inner.append(line)
        number += 1
        if line.strip():
            end = number
    inner = inner[: end - begin]
    while inner and (not inner[0].strip() or inner[0].lstrip().startswith(':')):
        # Options of the directive, and the line after them.
        inner.pop(0)
        begin += 1
    margin = min((len(x) - len(x.lstrip()) for x in inner if x.strip()), default=0)
    return '\n'.join(x[margin:] for x in inner), begin, end


# What is answered


def moment(text: str) -> int:
    """Epoch seconds of a date, or of such a number."""
    if text.isdigit():
        return int(text)
    parsed = datetime.datetime.fromisoformat(text)
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=datetime.UTC)
    return int(parsed.timestamp())


def like(moment: int, text: str) -> str:
    """A moment in the form of another one."""
    if text.isdigit():
        return str(moment)
    date = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    return date.strftime('%Y-%m-%dT%H:%M:%S') + text[19:]


class Moments:
    """Which moment a page means by one that it shows."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def seen(self, shown: str, met: str) -> bool:
        """Take one for the other; False if that was another one."""
        theirs = moment(met)
        return self._seen.setdefault(moment(shown), theirs) == theirs

    def is_now(self, shown: str) -> None:
        self._seen[moment(shown)] = int(time.time())

    def translate(self, text: str) -> str:
        """What a reader types who is told this."""

        def replace(found: re.Match[str]) -> str:
            theirs = self._seen.get(moment(found[0]))
            return found[0] if theirs is None else like(theirs, found[0])

        return re.sub(f'{_EPOCH}|{_DATE}', replace, text)


def differs(shown: str, met: str, moments: Moments) -> str:
    """In what an answer is not the one a page shows; nothing is best."""
    shown, met = shown.strip(), met.strip()
    pattern, named = '', []
    position = 0
    for token in _VARIABLE.finditer(shown):
        pattern += re.escape(shown[position : token.start()])
        position = token.end()
        if token['moment']:
            pattern += f'({_EPOCH}|{_DATE})'
            named.append(token['moment'])
        elif token['number'] and re.fullmatch(r'\d{1,2}', token['number']):
            pattern += token['number'] + r'(?!\d)'
        else:
            pattern += {
                'listed': _LISTED,
                'hex': r'[0-9a-f]{16,}',
                'rule': _RULE,
                'number': rf'\d+(?:\.\d+)?(?: {_UNIT}\b)?',
                'any': r'[\s\S]*?',
                'space': r'\s+',
            }[token.lastgroup or '']
    pattern += re.escape(shown[position:])
    found = re.fullmatch(pattern, met)
    if found is None:
        return f'--- the page shows\n{shown}\n--- the answer is\n{met}'
    for mine, theirs in zip(named, found.groups(), strict=True):
        if not moments.seen(mine, theirs):
            return f'{mine} was another moment before, and is {theirs}:\n{met}'
    return ''


# Who follows it


class Reader:
    """Follows the pages of one server, in a place of its own.

    With ``with``: at the end nothing that was started is left.

    :param root: below it are the folders that pages speak of
    :param store: ENDPOINT, ACCESS_KEY and SECRET_KEY of the server
    :param path: folders in which commands are looked for first
    """

    def __init__(self, root: Path, store: Mapping[str, str], path: list[Path]) -> None:
        self.root = root
        self.moments = Moments()
        self._store = dict(store)
        self._endpoint = ENDPOINT
        self._end = f'end of a command {uuid.uuid4().hex}'
        self._script = root / '.typed'
        cwd = root / 'root'
        cwd.mkdir(parents=True, exist_ok=True)
        self._shell = subprocess.Popen(
            ['bash', '--norc', '--noprofile'],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=self._environment(path, cwd),
            start_new_session=True,
        )

    def _environment(self, path: list[Path], home: Path) -> dict[str, str]:
        """As that of a reader who has set what every page takes to be set."""
        return environment(
            {
                **self._store,
                'AWS_ENDPOINT_URL': self._store['ENDPOINT'],
                'AWS_ACCESS_KEY_ID': self._store['ACCESS_KEY'],
                'AWS_SECRET_ACCESS_KEY': self._store['SECRET_KEY'],
                'AWS_DEFAULT_REGION': REGION,
                'OS_DEFAULT__HOSTNAME': HOST,
                # Where a reader in a clone is.
                'CLONE': str(ROOT),
                'PYTHON': sys.executable,
                'PATH': ':'.join([*map(str, path), os.environ['PATH']]),
                'HOME': str(home),
                'TZ': 'UTC',
            }
        )

    def __enter__(self) -> 'Reader':
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.communicate()

    def there(self, text: str) -> str:
        """What a page has, as it is here."""

        def key(found: re.Match[str]) -> str:
            return found[1] + found[2] + self._store[found[1].upper()]

        text = _KEY.sub(key, text.replace(self._endpoint, self._store['ENDPOINT']))
        return _FOLDER.sub(f'{self.root}/', self.moments.translate(text))

    def here(self, text: str) -> str:
        """What is answered, as a page has it."""
        text = text.replace(f'{self.root}/', '/')
        return text.replace(self._store['ENDPOINT'], self._endpoint)

    def follow(self, block: Block) -> None:
        """Do what a block says.

        :raises AssertionError: it does not come as it says
        """
        self._endpoint = block.endpoint
        if block.language == 'hidden':
            for command in block.hidden_commands():
                self._type(command, 0)
            return
        if block.now:
            self.moments.is_now(block.now)
        if block.file:
            path = self.root / 'root' / self.there(block.file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.there(block.text) + '\n')
            # It may hold keys.
            path.chmod(0o600)
            return
        commands = block.commands()
        for command in commands:
            self._type(command, block.exit if command is commands[-1] else 0)

    def _type(self, command: Command, code: int) -> None:
        typed = self.there(command.typed)
        where = f'line {command.line}: $ {typed}'
        if '…' in typed:
            raise PageError(command.line, 'what stands for anything cannot be typed')
        said, ended = self._run(typed)
        as_said = ended != 0 if code == ANY_FAILURE else ended == code
        assert as_said, f'{where}\nended with {ended}, not {code}:\n{said}'
        if not command.answer:
            return
        difference = differs(command.answer, self.here(said), self.moments)
        assert not difference, f'{where}\n{difference}'
        tables = [line for line in said.splitlines() if line.startswith(('|', '+-'))]
        # A reader's paths are shorter.
        if str(self.root) not in said:
            widest = max(map(len, tables), default=0)
            assert widest <= COLUMNS, f'{where}\nis too wide:\n{said}'

    def _run(self, typed: str) -> tuple[str, int]:
        """What is said, and the exit code."""
        self._script.write_text(typed + '\n')
        assert self._shell.stdin is not None
        line = f'. {self._script} </dev/null; printf "\\n%s %d\\n" "{self._end}" $?\n'
        self._shell.stdin.write(line.encode())
        self._shell.stdin.flush()
        said = ''
        for block in self._answers():
            said += block
            found = re.search(rf'\n{self._end} (\d+)\n', said)
            if found:
                return said[: found.start()], int(found[1])
        raise AssertionError(f'$ {typed}\nthe shell has ended, or it hangs:\n{said}')

    def _answers(self) -> Iterator[str]:
        assert self._shell.stdout is not None
        descriptor = self._shell.stdout.fileno()
        decoder = codecs.getincrementaldecoder('utf-8')('backslashreplace')
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            ready, _, _ = select.select([descriptor], [], [], 1)
            if not ready:
                continue
            block = os.read(descriptor, 65536)
            if not block:
                return
            yield decoder.decode(block)
