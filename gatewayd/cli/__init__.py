"""The command line. Exit status: 0 done, 1 not so (the check found something, books do not balance), 2 wrong usage,
69 the daemon cannot be reached, 78 a bad config.
"""

import sys

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h
EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h; RestartPreventExitStatus in the unit


def main() -> None:
    """Entry point of `gatewayd`: errors meant for a person leave as words, not as a traceback."""
    from gatewayd.cli.app import app
    from gatewayd.errors import ConfigError, GatewaydError

    try:
        app()
    except ConfigError as error:
        print(f"gatewayd: {error}", file=sys.stderr)
        print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    except GatewaydError as error:
        print(f"gatewayd: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
