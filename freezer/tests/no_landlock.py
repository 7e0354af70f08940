"""Run a command as on a kernel that has no Landlock: seccomp(2) answers instead."""

import ctypes
import errno
import os
import struct
import sys

_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_FILTER = 2
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ANSWER, _ALLOW = 0x00050000, 0x7FFF0000
_CREATE_RULESET = 444


def main() -> None:
    program = b''.join(
        struct.pack('=HBBI', *instruction)
        for instruction in (
            # The number of the system call.
            (_LOAD_WORD, 0, 0, 0),
            (_JUMP_IF_EQUAL, 0, 1, _CREATE_RULESET),
            (_RETURN, 0, 0, _ANSWER | errno.ENOSYS),
            (_RETURN, 0, 0, _ALLOW),
        )
    )
    buffer = ctypes.create_string_buffer(program, len(program))
    described = struct.pack('@HP', len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero),
        (_PR_SET_SECCOMP, ctypes.c_ulong(_FILTER), described, zero, zero),
    ):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == '__main__':
    main()
