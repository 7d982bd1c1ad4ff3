"""A libFuzzer of one target, through atheris: python -m benchmarks.faults.fuzz_atheris <target> <libFuzzer's arguments>

A process of its own: libFuzzer ends it with its own exit status.
"""

import sys

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

with atheris.instrument_imports(include=["gatewayd", "benchmarks.faults.fuzz_targets"]):
    from benchmarks.faults.fuzz_targets import TARGETS


def main() -> None:
    """Fuzz until libFuzzer has had enough."""
    target = TARGETS[sys.argv.pop(1)]

    def one(data: bytes) -> None:
        target(data)

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
