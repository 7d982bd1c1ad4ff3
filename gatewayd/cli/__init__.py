"""The command line. Exit status: 0 done, 1 not so (the check found something, books do not balance), 2 wrong usage,
69 the daemon cannot be reached, 78 a bad config.
"""

import os
import sys
from pathlib import Path

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h
EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h; RestartPreventExitStatus in the unit
_EXIT_PIPE = 141  # what a shell gives for SIGPIPE

# Which extra brings a package; the core works without all of them.
_EXTRAS = {"numpy": "onnx", "onnxruntime": "onnx", "tokenizers": "onnx", "xllamacpp": "llm", "aiomqtt": "aiomqtt"}
_EXTRAS |= {"sklearn": "fit", "skl2onnx": "fit", "onnx": "fit", "amqtt": "demo"}
_MODEL_HINT = "see `gatewayd models ls`; bundles are made by `gatewayd models fetch` and `gatewayd models fit`"
NO_CONFIG_HINT = "name the config with --config; without it that is /etc/gatewayd/gatewayd.toml, else ./config.toml"


def main() -> None:
    """Entry point of `gatewayd`: errors meant for a person leave as words, not as a traceback."""
    if sys.argv[1:2] == ["run"] and "rich" not in sys.modules:
        # structlog imports it where it is, for tracebacks in color: 3 MB that a service has no use for.
        sys.modules["rich"] = None  # type: ignore[assignment]
        import structlog  # noqa: F401

        del sys.modules["rich"]
    from gatewayd.cli.app import app
    from gatewayd.errors import GatewaydError

    try:
        app()
    except (GatewaydError, OSError, ModuleNotFoundError, ExceptionGroup) as error:
        sys.exit(_tell(error))


def _tell(error: Exception) -> int:
    """Say what went wrong, and what to do; the exit status. What nobody foresaw goes on as it is, a traceback."""
    from gatewayd.errors import ConfigError, GatewaydError

    leaf = _leaf(error)
    if isinstance(leaf, GatewaydError):
        print(f"gatewayd: {leaf}", file=sys.stderr)
        if hint := config_hint(leaf):
            print(f"hint: {hint}", file=sys.stderr)
        return EXIT_CONFIG if isinstance(leaf, ConfigError) else EXIT_FAILED
    if isinstance(leaf, ModuleNotFoundError) and (extra := _EXTRAS.get((leaf.name or "").split(".")[0])):
        print(f"gatewayd: {leaf.name} is not installed", file=sys.stderr)
        fits = sys.argv[1:2] == ["models"] and sys.argv[2:3] in (["fit"], ["calibrate"], ["distill"])
        extra = "fit" if fits else extra  # it brings numpy as well
        print(f"hint: pip install 'gatewayd[{extra}]'", file=sys.stderr)
        return EXIT_FAILED
    if isinstance(leaf, BrokenPipeError) and leaf.filename is None:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit complains
        return _EXIT_PIPE
    if isinstance(leaf, OSError) and leaf.filename is not None:  # a file of the user's: there is nothing to debug
        print(f"gatewayd: {leaf.filename}: {leaf.strerror}", file=sys.stderr)
        if sys.argv[1:2] != ["run"]:  # a daemon may meet it days later: then where it happened matters, too
            return EXIT_FAILED
    raise error


def config_hint(error: Exception) -> str:
    """What to do about an error; for a config that is not there, how to name another."""
    from gatewayd.errors import ModelError

    for problem in getattr(error, "problems", ()):
        if problem.problem.startswith("cannot be read") and not Path(problem.file).exists():
            return NO_CONFIG_HINT
    return str(getattr(error, "hint", "")) or (
        _MODEL_HINT if isinstance(error, ModelError) and "there is no model" in str(error) else ""
    )


def _leaf(error: Exception) -> Exception:
    """The one error in a group of one, however deep; the group itself when there are several."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
