"""What is made out of the options and kept in the repository: sample configurations
(by oslo-config-generator) and completions of shells.

    .venv/bin/python tools/generate.py            # write them
    .venv/bin/python tools/generate.py --check    # exit code 1 if one is not up to date

oslo.config can print completions itself (``--shell_completion``, from 10.0), but of
names with underscores, which are not those of groups (``--s3_region``), and none of
files.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from oslo_config import cfg, generator

from freezer.common import opts, plugins, usage
from freezer.scheduler import options as scheduler

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ('freezer-agent', 'freezer-scheduler')
# Options whose values are names of plugins.
PLUGINS = {f'--{option}': kind for kind, option in plugins.KINDS.items()}
# The commands of the scheduler; those that take files.
COMMANDS = {'freezer-agent': (), 'freezer-scheduler': scheduler.COMMANDS}
WITH_FILES = ('validate', 'run')
HEAD = '# Made by tools/generate.py; changes here are lost.\n'


def entries(of: usage.Usage) -> Iterator[usage.Entry]:
    for section in of.sections:
        for entry in section.entries:
            kind = PLUGINS.get(entry.names[-1])
            if kind is not None:
                entry = entry._replace(choices=tuple(plugins.names(kind)))
            yield entry


def bash(of: usage.Usage) -> str:
    """A script that bash-completion finds by the name of the command."""
    function = '_' + of.prog.replace('-', '_')
    names_of: dict[str, list[str]] = {}
    words: list[str] = []
    for entry in entries(of):
        words += [*entry.names, *([entry.inverse] if entry.inverse else [])]
        if entry.metavar:
            names_of.setdefault(_bash_value(entry), []).extend(entry.names)
    values = '\n'.join(
        f'        {"|".join(names)})\n            {command}\n            return ;;'
        for command, names in names_of.items()
    )
    return f"""{HEAD}# Completion of {of.prog} for bash.

{function}() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    # bash takes the = of --option=value for a word of its own.
    if [[ $word == = ]]; then
        word=
    elif [[ $before == = ]]; then
        before=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    COMPREPLY=()
    case $before in
{values}
    esac
    if [[ $word == -* ]]; then
        {_bash_words(words)}
        return
    fi
{_bash_commands(COMMANDS[of.prog])}}}
complete -F {function} {of.prog}
"""


# Where there is no answer, readline gives its own.
_BASH_FILES = 'compopt -o default'


def _bash_words(words: Iterable[str]) -> str:
    return f'COMPREPLY=($(compgen -W \'{" ".join(words)}\' -- "$word"))'


def _bash_value(entry: usage.Entry) -> str:
    if entry.choices:
        return _bash_words(entry.choices)
    if entry.metavar in (usage.FILE, usage.PATH):
        return _BASH_FILES
    # Of others nothing is known; an option is not offered in their place.
    return 'compopt -o dirnames' if entry.metavar == usage.DIRECTORY else ':'


def _bash_commands(commands: Sequence[str]) -> str:
    """One command, and files after those that take some."""
    if not commands:
        return ''
    with_files = '|'.join(f'*" {name} "*' for name in WITH_FILES)
    return f"""\
    case " ${{COMP_WORDS[*]:1:COMP_CWORD-1}} " in
        {with_files}) {_BASH_FILES} ;;
        *) {_bash_words(commands)} ;;
    esac
"""


def zsh(of: usage.Usage) -> str:
    """A function that zsh finds by the name of its file, ``_COMMAND``."""
    specs = [spec for entry in entries(of) for spec in _zsh_specs(entry)]
    commands = ' '.join(COMMANDS[of.prog])
    if commands:
        specs += [f"'1:command:({commands})'", "'*:file:_files'"]
    return f"""#compdef {of.prog}
{HEAD}# Completion of {of.prog} for zsh.

_arguments -s -S \\
  {(' ' + chr(92) + chr(10) + '  ').join(specs)}
"""


def _zsh_specs(entry: usage.Entry) -> Iterator[str]:
    told = _zsh_text(entry.help.partition('. ')[0].rstrip('.'))
    others = ' '.join((*entry.names, *([entry.inverse] if entry.inverse else [])))
    for name in entry.names:
        equals = '' if not entry.metavar else '=' if name.startswith('--') else '+'
        once = '*' if entry.many else f'({others})'
        yield f"'{once}{name}{equals}[{told}]{_zsh_values(entry)}'"
    if entry.inverse:
        yield f"'({others}){entry.inverse}[not: {told}]'"


def _zsh_values(entry: usage.Entry) -> str:
    if not entry.metavar:
        return ''
    if entry.choices:
        words = ' '.join(each.replace(':', '\\:') for each in entry.choices)
        return f':{entry.metavar}:({words})'
    files = {usage.FILE: '_files', usage.PATH: '_files', usage.DIRECTORY: '_files -/'}
    return f':{entry.metavar}:{files.get(entry.metavar, " ")}'


def _zsh_text(text: str) -> str:
    """For single quotes and brackets."""
    for mark in ('\\', '[', ']', ':'):
        text = text.replace(mark, '\\' + mark)
    return text.replace("'", "'\\''")


def fish(of: usage.Usage) -> str:
    """A script that fish finds by the name of the command."""
    lines = [f'complete -c {of.prog} -f']
    for entry in entries(of):
        told = _fish_text(entry.help.partition('. ')[0].rstrip('.'))
        names = ' '.join(
            f'-l {name[2:]}' if name.startswith('--') else f'-s {name[1:]}'
            for name in entry.names
        )
        lines.append(f'complete -c {of.prog} {names}{_fish_values(entry)} -d {told}')
        if entry.inverse:
            inverse = entry.inverse.removeprefix('--')
            told = f"'not: {told[1:]}"
            lines.append(f'complete -c {of.prog} -l {inverse} -d {told}')
    if commands := ' '.join(COMMANDS[of.prog]):
        first = f"'not __fish_seen_subcommand_from {commands}'"
        lines.append(f"complete -c {of.prog} -n {first} -a '{commands}'")
        files = f"'__fish_seen_subcommand_from {' '.join(WITH_FILES)}'"
        lines.append(f'complete -c {of.prog} -n {files} -F')
    return f'{HEAD}# Completion of {of.prog} for fish.\n\n' + '\n'.join(lines) + '\n'


def _fish_values(entry: usage.Entry) -> str:
    if not entry.metavar:
        return ''
    if entry.choices:
        return f" -x -a '{' '.join(entry.choices)}'"
    if entry.metavar == usage.DIRECTORY:
        return " -x -a '(__fish_complete_directories)'"
    return ' -r -F' if entry.metavar in (usage.FILE, usage.PATH) else ' -x'


def _fish_text(text: str) -> str:
    """In single quotes."""
    return "'" + text.replace('\\', '\\\\').replace("'", "\\'") + "'"


def sample(name: str) -> tuple[str, str]:
    """(path, content) of a sample configuration."""
    conf = cfg.ConfigOpts()
    generator.register_cli_opts(conf)
    conf(
        ['--config-file', str(ROOT / f'etc/config-generator/{name}.conf')],
        default_config_files=[],
        default_config_dirs=[],
    )
    path = conf.output_file
    with tempfile.NamedTemporaryFile('r', encoding='utf-8') as stream:
        conf.set_override('output_file', stream.name)
        generator.generate(conf)
        return path, stream.read()


def made() -> Iterator[tuple[str, str]]:
    """(path below the root, content) of each file."""
    for name in SAMPLES:
        yield sample(name)
    for of in (opts.help_usage(), scheduler.help_usage()):
        yield f'etc/bash-completion/{of.prog}', bash(of)
        yield f'etc/zsh/_{of.prog}', zsh(of)
        yield f'etc/fish/{of.prog}.fish', fish(of)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('--check', action='store_true', help='write nothing')
    check = parser.parse_args(argv).check
    stale = 0
    for path, content in made():
        target = ROOT / path
        if target.exists() and target.read_text(encoding='utf-8') == content:
            continue
        stale += 1
        if check:
            print(f'{path} is not up to date: run tools/generate.py')
        else:
            target.write_text(content, encoding='utf-8')
            print(path)
    return 1 if check and stale else 0


if __name__ == '__main__':
    sys.exit(main())
