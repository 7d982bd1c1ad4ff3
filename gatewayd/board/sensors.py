"""What the kernel says of the board: temperatures, throttling, load, frequencies, power. Files under a root, no more.

Invariant: what the board does not offer, may not be read by us, or answers with nonsense is absent, never made up.
Paths and units: Documentation/ABI/testing/sysfs-class-{thermal,hwmon,powercap} of the Linux kernel, and proc(5).
"""

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

import msgspec

# What the firmware of a Raspberry Pi tells. The file (hexadecimal): https://github.com/raspberrypi/linux/issues/2367,
# the bits: https://www.raspberrypi.com/documentation/computers/os.html under get_throttled. 16-19: since boot.
THROTTLED_BITS = {0: "under_voltage", 1: "frequency_capped", 2: "throttled", 3: "soft_temperature_limit"}
_SINCE_BOOT = 16
# On a Raspberry Pi 5 the node is soc@107c000000/soc@107c000000:firmware.
_FIRMWARE = "sys/devices/platform/soc*/soc*:firmware/get_throttled"
# NVIDIA: "PMIC-Die" of a Jetson is a dummy, 100 or 50 degrees whatever happens.
_DUMMY_ZONES = ("PMIC-Die",)
_LEAST_C, _MOST_C = -60.0, 200.0  # a sensor that is off answers with its limits
_POWER_CHIPS = ("ina3221", "ina219", "ina226", "ina238")
_RAILS = 3  # of an INA3221; in4 and above are shunt voltages and sums


class Temperature(msgspec.Struct, frozen=True, kw_only=True):
    """One sensor now, in degrees Celsius."""

    id: str  # "thermal_zone0", "hwmon2/temp1": unique on the board
    name: str  # the zone's type, the chip's name and label
    value_c: float
    passive_c: float | None = None  # the kernel begins to slow down
    critical_c: float | None = None  # the kernel switches off
    is_zone: bool = False
    is_dummy: bool = False


class Power(msgspec.Struct, frozen=True, kw_only=True):
    """One rail now."""

    id: str  # "hwmon3/in1"
    name: str  # "VDD_IN"
    watts: float


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """One counter of joules, which wraps."""

    id: str  # "intel-rapl:0"
    name: str  # "package-0"
    joules: float
    wraps_at_j: float


class Board(msgspec.Struct, frozen=True, kw_only=True):
    """One look at everything."""

    temperatures: tuple[Temperature, ...] = ()
    throttled: frozenset[str] | None = None  # now; None: this board does not tell
    throttled_since_boot: frozenset[str] = frozenset()
    load: tuple[float, float, float] | None = None  # of 1, 5 and 15 minutes
    frequencies_hz: dict[str, float] = {}  # by logical number of the processor
    powers: tuple[Power, ...] = ()
    energies: tuple[Energy, ...] = ()
    unreadable: tuple[str, ...] = ()  # files that are there and that we may not read


def look(root: Path) -> Board:
    """Read every sensor under `root`. Never raises for what is not there."""
    unreadable: list[str] = []
    throttled, since_boot = _throttled(root)
    return Board(
        temperatures=(*_zones(root), *_hwmon_temperatures(root)),
        throttled=throttled,
        throttled_since_boot=since_boot,
        load=_load(root),
        frequencies_hz=_frequencies(root),
        powers=tuple(_rails(root)),
        energies=tuple(_rapl(root, unreadable)),
        unreadable=tuple(unreadable),
    )


def _zones(root: Path) -> Iterator[Temperature]:
    for zone in _matches(root / "sys/class/thermal", "thermal_zone*"):
        value_c = _celsius(zone / "temp")
        if value_c is None:
            continue
        name = _text(zone / "type") or zone.name
        trips = _trips(zone)
        yield Temperature(
            id=zone.name,
            name=name,
            value_c=value_c,
            passive_c=trips.get("passive"),
            critical_c=trips.get("critical"),
            is_zone=True,
            is_dummy=name in _DUMMY_ZONES,
        )


def _trips(zone: Path) -> dict[str, float]:
    """The lowest trip point of each kind; 0 and below means that it is not set."""
    trips: dict[str, float] = {}
    for file in _matches(zone, "trip_point_*_type"):
        kind = _text(file)
        value_c = _celsius(file.with_name(file.name.removesuffix("type") + "temp"))
        if kind and value_c is not None and value_c > 0:
            trips[kind] = min(value_c, trips.get(kind, value_c))
    return trips


def _hwmon_temperatures(root: Path) -> Iterator[Temperature]:
    for chip in _matches(root / "sys/class/hwmon", "hwmon*"):
        name = _text(chip / "name") or chip.name
        for file in _matches(chip, "temp*_input"):
            value_c = _celsius(file)
            if value_c is None:
                continue
            sensor = file.name.removesuffix("_input")
            label = _text(chip / f"{sensor}_label")
            yield Temperature(
                id=f"{chip.name}/{sensor}",
                name=f"{name} {label}" if label else name,
                value_c=value_c,
                passive_c=_positive(_celsius(chip / f"{sensor}_max")),
                critical_c=_positive(_celsius(chip / f"{sensor}_crit")),
            )


def _throttled(root: Path) -> tuple[frozenset[str] | None, frozenset[str]]:
    """What holds the processor back now, and what did since boot. None where nobody tells."""
    for file in _matches(root, _FIRMWARE):
        try:
            bits = int(_text(file) or "", 16)
        except ValueError:
            continue
        if not 0 <= bits < 1 << 32:
            continue
        now = frozenset(name for bit, name in THROTTLED_BITS.items() if bits >> bit & 1)
        return now, frozenset(name for bit, name in THROTTLED_BITS.items() if bits >> (bit + _SINCE_BOOT) & 1)
    return _cooling(root), frozenset()


def _cooling(root: Path) -> frozenset[str] | None:
    """Whether the kernel itself slows the processor down: a cooling device of cpufreq that is at work."""
    states = [
        _number(device / "cur_state")
        for device in _matches(root / "sys/class/thermal", "cooling_device*")
        if "cpufreq" in _text(device / "type")
    ]
    known = [state for state in states if state is not None]
    if not known:
        return None
    return frozenset({"frequency_capped"} if any(known) else ())


def _load(root: Path) -> tuple[float, float, float] | None:
    try:
        one, five, fifteen = (float(word) for word in _text(root / "proc/loadavg").split()[:3])
    except ValueError:
        return _load_of_kernel() if root == Path("/") else None
    return one, five, fifteen


def _load_of_kernel() -> tuple[float, float, float] | None:
    """As the kernel tells a process that may not see /proc (ProcSubset=pid). Source: sysinfo(2), loads times 65536."""
    fields = (ctypes.c_ulong * 32)()  # the struct is smaller: uptime, three loads …
    sysinfo = getattr(ctypes.CDLL(None), "sysinfo", None)
    if sysinfo is None or sysinfo(fields) != 0:
        return None
    return fields[1] / 65536, fields[2] / 65536, fields[3] / 65536


def _frequencies(root: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for cpu in _matches(root / "sys/devices/system/cpu", "cpu[0-9]*"):
        khz = _number(cpu / "cpufreq/scaling_cur_freq")
        if khz:
            found[cpu.name.removeprefix("cpu")] = khz * 1000
    return found


def _rails(root: Path) -> Iterator[Power]:
    """Voltage (mV) times current (mA) of each channel of a power monitor; disabled channels answer with an error."""
    for chip in _matches(root / "sys/class/hwmon", "hwmon*"):
        if _text(chip / "name") not in _POWER_CHIPS:
            continue
        for channel in range(1, _RAILS + 1):
            millivolts, milliamperes = _number(chip / f"in{channel}_input"), _number(chip / f"curr{channel}_input")
            if millivolts is None or milliamperes is None:
                continue
            label = _text(chip / f"in{channel}_label")
            watts = millivolts * milliamperes / 1e6
            yield Power(id=f"{chip.name}/in{channel}", name=label or f"{chip.name} channel {channel}", watts=watts)


def _rapl(root: Path, unreadable: list[str]) -> Iterator[Energy]:
    """The top domains alone (packages, psys): core, uncore and dram are parts of them, or beside them on servers."""
    for domain in _matches(root / "sys/class/powercap", "intel-rapl:*"):
        if domain.name.count(":") != 1:
            continue
        file = domain / "energy_uj"
        microjoules, wraps_at = _number(file), _number(domain / "max_energy_range_uj")
        if microjoules is None or not wraps_at:
            if _is_forbidden(file):  # 0400 since CVE-2020-8694
                unreadable.append(str(file))
            continue
        name = _text(domain / "name") or domain.name
        yield Energy(id=domain.name, name=name, joules=microjoules / 1e6, wraps_at_j=wraps_at / 1e6)


def _matches(folder: Path, pattern: str) -> list[Path]:
    """In the order of their numbers, so that metrics keep theirs."""
    try:
        return sorted(folder.glob(pattern), key=lambda path: (len(path.name), path.name))
    except OSError:
        return []


def _text(file: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return file.read_text().strip("\0 \n")
    return ""


def _number(file: Path) -> float | None:
    try:
        return float(_text(file))
    except ValueError:
        return None


def _celsius(file: Path) -> float | None:
    """From thousandths of a degree."""
    value = _number(file)
    return None if value is None or not _LEAST_C < value / 1000 < _MOST_C else value / 1000


def _positive(value_c: float | None) -> float | None:
    return value_c if value_c is not None and value_c > 0 else None


def _is_forbidden(file: Path) -> bool:
    try:
        with file.open("rb"):
            return False
    except PermissionError:
        return True
    except OSError:
        return False
