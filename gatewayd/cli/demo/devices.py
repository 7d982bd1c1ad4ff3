"""The demo's devices: pumps that cavitate, freezers whose doors stay open, a PLC that writes a log.

Simulators with the real protocol: they publish over MQTT like anything else on the bus. Their physics is simple and
their faults are theirs alone: no handler knows them. The pump is also what the demo's model is trained on, in
recordings of other pumps (other seeds) than those that then run.
"""

import csv
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PUMP_FIELDS = ("vibration", "current", "pressure")
SAMPLES_PER_S = 4


@dataclass(frozen=True, slots=True)
class Publication:
    """One message a device wants to send."""

    topic: str
    payload: str


class Pump:
    """Vibration (mm/s), motor current (A) and pressure (bar), four times a second; cavitates now and then."""

    def __init__(self, name: str, seed: int, *, faulty: bool) -> None:
        self.name = name
        self._random = random.Random(seed)
        self._faulty = faulty
        self._bias = self._random.uniform(0.9, 1.1)  # no two pumps are alike
        self._phase = self._random.uniform(0, 6.28)
        self._n_samples = 0
        self.cavitating = False

    def sample(self) -> dict[str, float]:
        """The next reading."""
        self._n_samples += 1
        seconds = self._n_samples / SAMPLES_PER_S
        self.cavitating = self._faulty and 11.0 < seconds % 30.0 < 20.0
        noise = self._random.gauss
        load = 1.0 + 0.05 * math.sin(seconds / 7 + self._phase)
        vibration = self._bias * (2.0 + 0.2 * math.sin(seconds * 5 + self._phase)) * load + noise(0, 0.12)
        current = self._bias * 7.5 * load + noise(0, 0.15)
        pressure = self._bias * 4.2 * load + noise(0, 0.05)
        if self.cavitating:  # bubbles: rough running, pressure hunts, the motor is relieved
            vibration += abs(noise(1.1, 0.8))
            current -= 0.5 + abs(noise(0, 0.3))
            pressure += noise(-0.3, 0.35)
        return {"vibration": round(vibration, 3), "current": round(current, 3), "pressure": round(pressure, 3)}

    def publish(self) -> Publication:
        """The next reading as a message."""
        reading = self.sample()
        body = ", ".join(f'"{name}": {value}' for name, value in reading.items())
        return Publication(f"plant/{self.name}/state", f'{{"device": "{self.name}", {body}}}')


class Freezer:
    """A temperature in degrees Celsius as a bare number; now and then somebody leaves the door open."""

    def __init__(self, name: str, seed: int, *, door: bool) -> None:
        self.name = name
        self._random = random.Random(seed)
        self._door = door
        self._temperature = -20.0
        self._n_samples = 0

    def publish(self) -> Publication:
        """The next reading as a message."""
        self._n_samples += 1
        is_open = self._door and 4.0 < (self._n_samples / SAMPLES_PER_S) % 40.0 < 14.0
        target, pace = (-6.0, 0.02) if is_open else (-20.0, 0.03)
        self._temperature += (target - self._temperature) * pace + self._random.gauss(0, 0.05)
        return Publication(f"store/{self.name}/temperature", f"{self._temperature:.2f}")


_ROUTINE = (
    "{plc} cycle {n} completed in {ms} ms",
    "{plc} recipe {recipe} loaded by operator {operator}",
    "{plc} conveyor speed set to {speed} mm/s",
    "{plc} heartbeat ok, buffer at {percent} percent",
    "{plc} batch {n} labelled and released",
)
_TROUBLE = (
    "{plc} emergency stop pressed at station {station}",
    "{plc} drive {station} overtemperature {temp} C, shutting down",
    "{plc} fieldbus timeout to module {station}, retry {percent} failed",
    "{plc} light curtain interrupted at station {station}, motion inhibited",
)


class Plc:
    """A log line now and then; trouble comes in bursts."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self._random = random.Random(seed)
        self._n_lines = 0

    def publish(self) -> Publication:
        """The next log line as a message."""
        self._n_lines += 1
        trouble = 6 < self._n_lines % 24 < 14 and self._random.random() < 0.7
        template = self._random.choice(_TROUBLE if trouble else _ROUTINE)
        draw = self._random.randint
        line = template.format(
            plc=self.name,
            n=4200 + self._n_lines,
            ms=draw(180, 260),
            recipe=self._random.choice("ABC") + str(draw(10, 99)),
            operator=draw(1, 9),
            speed=draw(300, 500),
            percent=draw(1, 99),
            station=draw(1, 6),
            temp=draw(92, 118),
        )
        return Publication(f"logs/{self.name}", line)


def plant(seed: int) -> tuple[list[Pump | Freezer], list[Plc]]:
    """The devices of the demo: readings four times a second, and log lines once a second."""
    fast: list[Pump | Freezer] = [Pump(f"pump-{n}", seed + n, faulty=n == 2) for n in (1, 2, 3)]
    fast += [Freezer(f"freezer-{n}", seed + 10 + n, door=n == 1) for n in (1, 2)]
    return fast, [Plc("plc-7", seed + 20)]


def record_pumps(folder: Path, *, n_pumps: int = 4, seconds: int = 600) -> list[Path]:
    """Recordings of other pumps than those that run in the demo, with labels: what a user has in a CSV."""
    paths = []
    for n in range(n_pumps):
        path = folder / f"recording-{n}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["time", "device", *PUMP_FIELDS, "label"])
            writer.writerows(_rows(Pump(f"recorded-{n}", 1000 + n, faulty=True), seconds))
        paths.append(path)
    return paths


def _rows(pump: Pump, seconds: int) -> Iterator[list[object]]:
    for index in range(seconds * SAMPLES_PER_S):
        reading = pump.sample()
        label = "cavitation" if pump.cavitating else "normal"
        yield [index / SAMPLES_PER_S, pump.name, *(reading[name] for name in PUMP_FIELDS), label]
