"""Made-up trees of files as the kernel of a board shows them: a Raspberry Pi, a Jetson, a small x86 box."""

from collections.abc import Mapping
from pathlib import Path

RASPBERRY_PI: Mapping[str, str] = {
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "51121",
    "sys/class/thermal/thermal_zone0/trip_point_0_type": "critical",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp": "110000",
    "sys/class/hwmon/hwmon0/name": "cpu_thermal",
    "sys/class/hwmon/hwmon0/temp1_input": "51121",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "0",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1800000",
    "sys/devices/system/cpu/cpu10/cpufreq/scaling_cur_freq": "600000",
    "proc/loadavg": "0.52 0.58 0.59 1/389 12345",
}
JETSON: Mapping[str, str] = {
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "48937",
    "sys/class/thermal/thermal_zone0/trip_point_0_type": "passive",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp": "99000",
    "sys/class/thermal/thermal_zone0/trip_point_1_type": "critical",
    "sys/class/thermal/thermal_zone0/trip_point_1_temp": "104500",
    "sys/class/thermal/thermal_zone1/type": "cv0-thermal",  # switched off: reading it fails, here it is not there
    "sys/class/thermal/thermal_zone2/type": "PMIC-Die",
    "sys/class/thermal/thermal_zone2/temp": "100000",
    "sys/class/thermal/cooling_device0/type": "cpufreq-cpu0",
    "sys/class/thermal/cooling_device0/cur_state": "0",
    "sys/class/hwmon/hwmon3/name": "ina3221",
    "sys/class/hwmon/hwmon3/in1_label": "VDD_IN",
    "sys/class/hwmon/hwmon3/in1_input": "5000",
    "sys/class/hwmon/hwmon3/curr1_input": "1200",
    "sys/class/hwmon/hwmon3/in2_label": "VDD_CPU_GPU_CV",
    "sys/class/hwmon/hwmon3/in2_input": "5000",
    "sys/class/hwmon/hwmon3/curr2_input": "400",
    "sys/class/hwmon/hwmon3/in3_label": "VDD_SOC",
    "sys/class/hwmon/hwmon3/in3_input": "5000",  # its current cannot be read: disabled
    "sys/class/hwmon/hwmon3/in7_label": "sum of shunt voltages",
    "sys/class/hwmon/hwmon3/in7_input": "12",
}
X86: Mapping[str, str] = {
    "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp",
    "sys/class/thermal/thermal_zone0/temp": "40000",
    "sys/class/thermal/thermal_zone0/trip_point_0_type": "passive",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp": "-274000",  # not set
    "sys/class/powercap/intel-rapl:0/name": "package-0",
    "sys/class/powercap/intel-rapl:0/energy_uj": "1000000",
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850",
    "sys/class/powercap/intel-rapl:0:0/name": "core",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": "400000",
    "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj": "262143328850",
}


def lay(root: Path, *boards: Mapping[str, str], **changes: str) -> Path:
    """The files under `root`; `changes`: further contents, by the last two parts of a path joined by "__"."""
    files = {path: text for board in boards for path, text in board.items()}
    for key, text in changes.items():
        end = key.replace("__", "/")
        [path] = [path for path in files if path.endswith(end)]
        files[path] = text
    for path, text in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root
