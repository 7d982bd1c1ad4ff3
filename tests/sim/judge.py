"""A far tier in a process of its own: it speaks the http tier's protocol, knows the truth, and notes what it was asked.

The truth of a question is `value.truth`, or (with `--labels`) the entry `value.n` of a JSON list.
"""

import argparse
import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.sim.mosquitto import free_port


class JudgeProcess:
    """Started and stopped by tests; the port stays the same, and so does what it was asked."""

    def __init__(self, folder: Path, *, labels: Path | None = None) -> None:
        self.file = folder / "judge.ndjson"
        self.port = free_port()
        self._labels = labels
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/ask"

    def start(self) -> None:
        """Return when it listens."""
        command = [sys.executable, "-m", "tests.sim.judge", "--port", str(self.port), "--file", str(self.file)]
        if self._labels is not None:
            command += ["--labels", str(self._labels)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert self._process.stdout is not None
        assert b"listening" in self._process.stdout.readline()

    def stop(self) -> None:
        """It is away from now on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    def asked(self) -> list[dict[str, Any]]:
        """Every question that came, in order, with what stood in it."""
        if not self.file.exists():
            return []
        return [json.loads(line) for line in self.file.read_bytes().splitlines() if line.endswith(b"}")]


def serve(port: int, file: Path, labels: list[str] | None) -> None:
    """Answer until killed."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            events = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with file.open("ab") as notes:
                notes.writelines(json.dumps(event).encode() + b"\n" for event in events)
            answers = [
                {"id": event["id"], "label": truth(event["data"]["value"]), "confidence": 0.99} for event in events
            ]
            body = json.dumps(answers).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    def truth(value: dict[str, Any]) -> str:
        return str(value["truth"] if labels is None else labels[value["n"]])

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print("listening", flush=True)
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--labels", type=Path)
    given = parser.parse_args()
    serve(given.port, given.file, None if given.labels is None else json.loads(given.labels.read_text()))


if __name__ == "__main__":
    main()
