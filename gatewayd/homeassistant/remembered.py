"""What was announced last, on disk: so that what is no more can be taken out of Home Assistant."""

from pathlib import Path

import msgspec
import structlog

log = structlog.get_logger(__name__)


class Announced(msgspec.Struct, frozen=True, kw_only=True):
    """The last discovery message."""

    topic: str
    components: dict[str, str]  # id -> platform


class AnnouncedFile:
    """Keeps it. A disk that does not take it is logged: then a component that goes must be removed by hand."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def is_there(self) -> bool:
        """Whether something was announced and not taken back."""
        return self._path.exists()

    def load(self) -> Announced | None:
        """None: nothing was announced, or nobody knows what."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Announced)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("what was announced is not known any more", file=str(self._path), cause=str(error))
            return None

    def save(self, announced: Announced) -> None:
        """Replaces the file; one that a power cut damaged is as none."""
        beside = self._path.with_name(self._path.name + ".new")
        try:
            beside.write_bytes(msgspec.json.encode(announced))
            beside.replace(self._path)
        except OSError as error:
            log.warning("what was announced could not be remembered", file=str(self._path), cause=str(error))

    def forget(self) -> None:
        """It was taken back."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("what was announced could not be forgotten", file=str(self._path), cause=str(error))
