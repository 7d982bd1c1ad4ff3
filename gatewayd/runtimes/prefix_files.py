"""The computed states of static prompts as files, so that a restart does not compute them again.

Invariants: a state is used only when its content has the digest in its name and its name was made from the same model,
options, library and text, so a damaged or foreign file is removed and computed again; all files together stay below
the limit, the least recently used go first.
"""

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

_SUFFIX = ".slot"
_PART = ".part"  # being written, or left by a crash
_DIGEST_BYTES = 16


class PrefixFiles:
    """A folder of states. Several workers may share it; each asks only for names of its own."""

    def __init__(self, folder: Path, identity: str, max_bytes: int) -> None:
        """`identity`: of all that a state depends on but for its text. Makes the folder."""
        self.folder = folder
        self._identity = identity
        self._max_bytes = max_bytes
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def find(self, text: str) -> str | None:
        """The name of the file with this text's state; None when there is none that is sound."""
        for path in sorted(self.folder.glob(f"{self._key(text)}.*{_SUFFIX}")):
            try:
                if path.name == self._name(text, _digest(path)):
                    os.utime(path)  # used now: what is evicted is what was not
                    return path.name
                path.unlink(missing_ok=True)
            except OSError as exc:
                print(f"the state of a static prompt cannot be read: {exc}", file=sys.stderr)
                continue
            print(f"{path.name} is damaged and was removed: its prompt is computed again", file=sys.stderr)
        return None

    def part(self, text: str) -> str:
        """The name to write this text's state to, before `keep`."""
        return f"{self._key(text)}.{os.getpid()}{_PART}"

    def keep(self, text: str) -> str | None:
        """Take over what was written to `part(text)`, and make room; the file's name, None when it is too large."""
        written = self.folder / self.part(text)
        if written.stat().st_size > self._max_bytes:
            written.unlink()
            print("the state of a static prompt exceeds models.llm_prefix_cache_bytes", file=sys.stderr)
            return None
        written.chmod(0o600)
        name = self._name(text, _digest(written))
        written.replace(self.folder / name)
        self._make_room(name)
        return name

    def _make_room(self, newest: str) -> None:
        files = self._by_age()
        excess = sum(size for _, size, _ in files) - self._max_bytes
        for _, size, path in files:
            if excess <= 0:
                return
            if path.name != newest:
                path.unlink(missing_ok=True)
                excess -= size

    def _by_age(self) -> Sequence[tuple[int, int, Path]]:
        """(mtime_ns, size, path) of every state, of whatever model, and of what a crash left half written."""
        found = []
        for path in self.folder.iterdir():
            if path.suffix in (_SUFFIX, _PART):
                try:
                    status = path.stat()
                except FileNotFoundError:  # another worker was quicker
                    continue
                found.append((status.st_mtime_ns, status.st_size, path))
        return sorted(found)

    def _key(self, text: str) -> str:
        return hashlib.blake2b(f"{self._identity}\0{text}".encode(), digest_size=_DIGEST_BYTES).hexdigest()

    def _name(self, text: str, digest: str) -> str:
        return f"{self._key(text)}.{digest}{_SUFFIX}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).hexdigest()
