"""Parts of the day in the life: a student made of recordings, compressed time, a sender, a listener on the bus."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality_text import ENCODER, encoder, fit_head
from benchmarks.quality_text import Bgl as Corpus
from gatewayd.config.schema import Models as ModelsConfig
from gatewayd.models.fetch import fetch
from gatewayd.models.store import ModelStore

_ID = re.compile(r"(?:^| )id:(\S+)")
_START_S = 10.0


@dataclass(frozen=True)
class Student:
    """A fitted and calibrated head beside its encoder."""

    models: Path
    name: str
    calibration: dict[str, Any]  # what `models calibrate` said


def fit_student(folder: Path, corpus: Corpus, fit_on: range, calibrate_on: range) -> Student:
    """Fit on one part of the log and calibrate on a later one."""
    models = folder / "models"
    models.mkdir(parents=True)
    fetch([ENCODER], models, cache=folder / "fetch")
    fit_head(
        corpus, fit_on, models, name="student", encode=encoder(ModelStore(models, ModelsConfig())), seed=0, hints=True
    )
    recording = folder / "calibrate.ndjson"
    rows = [{"text": corpus.lines[i], "label": corpus.labels[i]} for i in calibrate_on]
    recording.write_text("\n".join(json.dumps(row) for row in rows))
    config = folder / "fit.toml"
    config.write_text(f'[models]\ndir = "{models}"\n')
    command = [sys.executable, "-m", "gatewayd", "models", "calibrate", "student", str(recording)]
    done = subprocess.run(
        [*command, "--config", str(config), "--accuracy", "0.95", "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return Student(models, "student", json.loads(done.stdout))


class Day:
    """24 hours in `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began_s = 0.0

    def begin(self) -> None:
        """It is midnight."""
        self._began_s = time.monotonic()

    def seconds_of(self, hours: float) -> float:
        """So many hours, in real seconds."""
        return hours / 24.0 * self._seconds

    def wait_until(self, hour: float) -> None:
        """Return when it is that hour, or later."""
        time.sleep(max(0.0, self._began_s + self.seconds_of(hour) - time.monotonic()))


class Sender:
    """One device: a mosquitto_pub that sends a message a line, at QoS 1."""

    def __init__(self, port: int, topic: str) -> None:
        binary = shutil.which("mosquitto_pub")
        assert binary is not None, "apt install mosquitto-clients"
        command = [binary, "-p", str(port), "-t", topic, "-q", "1", "-l"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)

    def send(self, message: dict[str, Any]) -> None:
        """Hand one message over."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """Return when the broker has acknowledged all."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


class Live:
    """Who listens to live results on the local bus."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, port: int) -> None:
        """Listen from now on."""
        binary = shutil.which("mosquitto_sub")
        assert binary is not None, "apt install mosquitto-clients"
        command = [binary, "-p", str(port), "-V", "mqttv5", "-t", "gatewayd/+/results/#", "-F", "%t\t%P\t%p"]
        self._process = subprocess.Popen(command, stdout=self._file.open("wb"))
        time.sleep(1.0)  # mosquitto_sub does not say when it is subscribed

    def stop(self) -> None:
        """Listen no more."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=_START_S)

    def ids(self, route: str) -> tuple[Counter[str], Counter[str]]:
        """Ids of the provisional answers that were published, and of what was corrected."""
        provisional: Counter[str] = Counter()
        corrected: Counter[str] = Counter()
        for line in self._file.read_text().splitlines():
            topic, properties, payload = line.split("\t", 2)
            if not topic.endswith(f"/{route}") or not payload.endswith("}"):
                continue
            data = json.loads(payload)
            if "corrects" in data:
                corrected[data["corrects"]] += 1
            elif data["provisional"]:
                found = _ID.search(properties)
                provisional[found[1] if found else ""] += 1
        return provisional, corrected


def messages_of(corpus: Corpus, part: range, n_rounds: int) -> list[dict[str, Any]]:
    """The traffic: each line with its number in the log, and an id of its own."""
    order: Sequence[int] = [index for _ in range(n_rounds) for index in part]
    return [{"id": f"m{number}", "n": n, "text": corpus.lines[n]} for number, n in enumerate(order)]
