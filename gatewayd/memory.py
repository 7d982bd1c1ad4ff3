"""What the C library does with memory, told once at the start of a daemon.

glibc gives threads arenas of their own, each of which keeps what was freed in it. A daemon with a handful of threads
that seldom allocate at once pays for that with megabytes and gains nothing.
"""

import ctypes

_M_ARENA_MAX = -8  # malloc.h of glibc; see mallopt(3)


def share_one_arena() -> bool:
    """Let all threads allocate from one arena. False where the C library has no such thing (musl, macOS).

    To be called before threads are started; child processes are not affected.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_ARENA_MAX, 1) == 1
