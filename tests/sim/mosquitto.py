"""A real Mosquitto on a free port, with its own config: started, stopped, killed, paused and restarted by tests."""

import getpass
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

_START_S = 10.0


def find_mosquitto() -> str | None:
    """Path of the broker, or None. Debian puts it where the PATH of a plain user does not look."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """One broker.

    Args:
        folder: where its config, log and persistence lie.
        listener: lines below the `listener` line, e.g. TLS settings.
        settings: further global lines.
        persistence: keep mqtt_sessions over a restart.
        unix_socket: listen on this path instead of on TCP.
        anonymous: let anybody connect.
    """

    def __init__(
        self,
        folder: Path,
        *,
        listener: Sequence[str] = (),
        settings: Sequence[str] = (),
        persistence: bool = False,
        unix_socket: Path | None = None,
        anonymous: bool = True,
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.unix_socket = unix_socket
        where = f"listener 0 {unix_socket}" if unix_socket else f"listener {self.port} 127.0.0.1"
        lines = [
            f"user {getpass.getuser()}",  # started by root it would become `mosquitto`, who cannot read our folder
            "per_listener_settings false",
            f"allow_anonymous {'true' if anonymous else 'false'}",
            "max_queued_messages 0",
            f"log_dest file {folder / 'mosquitto.log'}",
            *settings,
        ]
        if persistence:
            lines += ["persistence true", f"persistence_location {folder}/", "autosave_interval 0"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mosquitto.conf").write_text("\n".join([*lines, where, *listener, ""]))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it answers."""
        binary = find_mosquitto()
        assert binary is not None
        self._process = subprocess.Popen(
            [binary, "-c", str(self.folder / "mosquitto.conf")],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"mosquitto did not start, see {self.folder}/mosquitto.log")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it cleanly: it saves its persistence."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut does."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop cleanly and start again."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Leave every connection half open: the sockets stand, nobody answers."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        process.wait(timeout=120)

    def _answers(self) -> bool:
        family = socket.AF_UNIX if self.unix_socket else socket.AF_INET
        with socket.socket(family) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(self.unix_socket) if self.unix_socket else ("127.0.0.1", self.port))
            except OSError:
                return False
            return True
