"""What a crash must not undo: a file or a folder, as it is now, on the disk."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Return when the disk has it; of a folder, its entries (renames, new files). Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
