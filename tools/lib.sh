# What the scripts beside it share. Sourced, with the repository's root as the current
# directory.

say() { printf '\n==> %s\n' "$*"; }
die() { printf 'tools/%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# .venv, made if it is not there, with what is asked for; first in PATH afterwards.
#
#   virtual_environment tests   the agent, its extras and all that tests need
#   virtual_environment agent   the agent and its extras
#
# pip runs when something has changed since it last did.
virtual_environment() {
    local python=${PYTHON:-python3} wanted=$1 tests=.venv/requirements.sha256
    local stamp=$tests now packages=(-e '.[zstd,encryption,crt,quickstart]')
    if [ ! -x .venv/bin/python ]; then
        command -v "$python" >/dev/null || die "no $python; set PYTHON to a Python 3.11+"
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
            die "$("$python" --version) is too old: 3.11 is needed; set PYTHON"
        # Where ensurepip is missing, a .venv without pip is left.
        "$python" -m venv .venv ||
            { rm -rf .venv; die "$python cannot make a venv (Debian: python3-venv)"; }
    fi
    .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die ".venv has $(.venv/bin/python --version), 3.11 is needed: remove .venv"
    # The directory too: the editable installation points at it.
    now=$({ pwd; cat requirements.txt test-requirements.txt pyproject.toml setup.*; } |
        sha256sum)
    case $wanted in
        tests) packages=(-r test-requirements.txt "${packages[@]}") ;;
        agent) stamp=.venv/agent.sha256 ;;
    esac
    # The tests have all that the agent needs.
    if [ "$(cat "$tests" 2>/dev/null)" != "$now" ] &&
        [ "$(cat "$stamp" 2>/dev/null)" != "$now" ]; then
        say 'pip install'
        .venv/bin/python -m pip install -q --disable-pip-version-check "${packages[@]}"
        echo "$now" >"$stamp"
    fi
    # Absolute, so that what changes directory finds the same programs.
    PATH=$PWD/.venv/bin:$PATH
}
