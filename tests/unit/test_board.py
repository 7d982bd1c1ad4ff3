"""What a board offers is read as it is; what it does not offer is absent; hot does not flap."""

import os
from pathlib import Path
from typing import Any

import pytest

from gatewayd.board.energy import Charges, Joules
from gatewayd.board.heat import Heat, Shedding
from gatewayd.board.observed import observe_board
from gatewayd.board.sensors import Board, Energy, Power, Temperature, look
from gatewayd.board.watch import BoardWatch, in_words
from gatewayd.config import schema
from gatewayd.config.schema import Telemetry as TelemetryConfig
from gatewayd.errors import TransientError
from gatewayd.telemetry import Telemetry
from tests.sim.boards import JETSON, RASPBERRY_PI, X86, lay


def test_a_raspberry_pi_tells_temperature_throttling_load_and_frequency(tmp_path: Path) -> None:
    board = look(lay(tmp_path, RASPBERRY_PI))

    zone, chip = board.temperatures
    assert (zone.id, zone.name, zone.value_c, zone.passive_c, zone.critical_c) == (
        "thermal_zone0",
        "cpu-thermal",
        51.121,
        None,
        110.0,
    )
    assert (chip.id, chip.name) == ("hwmon0/temp1", "cpu_thermal")
    assert board.throttled == frozenset()
    assert board.load == (0.52, 0.58, 0.59)
    assert board.frequencies_hz == {"0": 1.8e9, "10": 6e8}
    assert (board.powers, board.energies) == ((), ())


@pytest.mark.parametrize(
    ("bits", "now", "since_boot"),
    [
        ("50005", {"under_voltage", "throttled"}, {"under_voltage", "throttled"}),
        ("80008", {"soft_temperature_limit"}, {"soft_temperature_limit"}),
        ("20002", {"frequency_capped"}, {"frequency_capped"}),
        ("50000", set(), {"under_voltage", "throttled"}),
    ],
)
def test_the_bits_of_the_firmware(tmp_path: Path, bits: str, now: set[str], since_boot: set[str]) -> None:
    board = look(lay(tmp_path, RASPBERRY_PI, get_throttled=bits))

    assert (board.throttled, board.throttled_since_boot) == (now, since_boot)


def test_the_firmware_of_a_raspberry_pi_5_has_another_path(tmp_path: Path) -> None:
    path = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"

    assert look(lay(tmp_path, {path: "4"})).throttled == {"throttled"}


def test_a_jetson_tells_its_rails_and_its_dummy_zone_does_not_count(tmp_path: Path) -> None:
    board = look(lay(tmp_path, JETSON))

    assert {power.name: power.watts for power in board.powers} == {"VDD_IN": 6.0, "VDD_CPU_GPU_CV": 2.0}
    assert [one.name for one in board.temperatures] == ["cpu-thermal", "PMIC-Die"]
    heat = Heat(schema.Board(hot_c=90.0))
    heat.look(board)
    assert not heat.is_hot


def test_a_cooling_device_at_work_is_throttling(tmp_path: Path) -> None:
    assert look(lay(tmp_path, JETSON, cooling_device0__cur_state="3")).throttled == {"frequency_capped"}


def test_an_x86_box_has_a_counter_of_joules_and_no_trip_point_that_is_set(tmp_path: Path) -> None:
    board = look(lay(tmp_path, X86))

    assert board.energies == (Energy(id="intel-rapl:0", name="package-0", joules=1.0, wraps_at_j=262143.32885),)
    assert (board.temperatures[0].passive_c, board.throttled) == (None, None)


def test_the_load_is_known_where_proc_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatewayd.board.sensors._text", lambda file: "")

    load = look(Path("/")).load

    assert load is not None
    assert load == pytest.approx(os.getloadavg(), abs=1.0)


def test_an_empty_tree_offers_nothing_and_nothing_is_made_up(tmp_path: Path) -> None:
    assert look(tmp_path) == Board()
    watch = BoardWatch.of(schema.Board(root=str(tmp_path)))
    watch.look({"llm": {"calls": 1.0}}, 0.0)
    watch.look({"llm": {"calls": 2.0}}, 5.0)

    assert watch.status() == {"hot": False, "causes": []}
    assert metrics(watch) == {"gatewayd_board_hot": 0.0}


@pytest.mark.parametrize("nonsense", ["", "abc", "-256000", "999999999", "\0"])
def test_a_sensor_that_answers_with_nonsense_is_absent(tmp_path: Path, nonsense: str) -> None:
    board = look(lay(tmp_path, RASPBERRY_PI, thermal_zone0__temp=nonsense, get_throttled="zz" + nonsense))

    assert [one.id for one in board.temperatures] == ["hwmon0/temp1"]
    assert board.throttled is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_counter_that_root_alone_may_read_is_absent_and_the_doctor_says_so(tmp_path: Path) -> None:
    lay(tmp_path, X86)
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").chmod(0)

    assert look(tmp_path).energies == ()
    assert "root alone" in in_words(schema.Board(root=str(tmp_path)))[1]


def test_the_doctors_words(tmp_path: Path) -> None:
    words, hint = in_words(schema.Board(root=str(lay(tmp_path, JETSON)), hot_c=45.0))

    assert "cpu-thermal 48.9 C (hot at 45)" in words
    assert "PMIC-Die 100.0 C," not in words.replace("PMIC-Die 100.0 C;", "")
    assert "VDD_IN 6.0 W" in words
    assert "air" in hint


def zone(value_c: float, *, id_: str = "thermal_zone0", **fields: Any) -> Board:
    return Board(temperatures=(Temperature(id=id_, name="cpu", value_c=value_c, is_zone=True, **fields),))


def test_hot_begins_at_one_temperature_and_ends_at_a_lower_one() -> None:
    heat = Heat(schema.Board(hot_c=80.0, cool_c=70.0))
    seen = []
    for value_c in (79.9, 80.0, 75.0, 70.1, 70.0, 75.0, 79.9, 80.1):
        heat.look(zone(value_c))
        seen.append(heat.is_hot)

    assert seen == [False, True, True, True, False, False, False, True]


def test_a_hot_sensor_that_misses_a_look_is_still_hot_and_one_that_is_gone_is_not() -> None:
    heat = Heat(schema.Board(hot_c=80.0))
    heat.look(zone(85.0))

    for _ in range(12):
        heat.look(Board())
        assert heat.is_hot
    heat.look(Board())

    assert not heat.is_hot


def test_without_a_setting_the_zones_own_trip_points_say_what_is_hot() -> None:
    heat = Heat(schema.Board())

    heat.look(zone(96.0, passive_c=95.0, critical_c=105.0))
    assert heat.is_hot
    heat.look(zone(89.0, passive_c=95.0, critical_c=105.0))
    assert not heat.is_hot
    heat.look(zone(105.0, critical_c=110.0))
    assert heat.is_hot
    heat = Heat(schema.Board())
    heat.look(zone(140.0))
    assert not heat.is_hot, "a sensor that knows no limit has no say"


def test_named_zones_alone_are_judged() -> None:
    board = Board(
        temperatures=(
            Temperature(id="thermal_zone0", name="cpu", value_c=99.0, is_zone=True),
            Temperature(id="hwmon0/temp1", name="nvme Composite", value_c=60.0),
        )
    )
    heat = Heat(schema.Board(hot_c=80.0, zones=["nvme"]))

    heat.look(board)

    assert not heat.is_hot


def test_throttled_is_as_bad_as_hot() -> None:
    heat = Heat(schema.Board())

    heat.look(Board(throttled=frozenset({"under_voltage"})))

    assert heat.causes == ("under_voltage",)


def test_low_priorities_give_way_while_it_is_hot_and_each_refusal_is_counted() -> None:
    heat = Heat(schema.Board(hot_c=80.0))
    shedding = Shedding(heat, below_priority=5)
    shedding.check("nightly", 4)
    heat.look(zone(85.0))

    shedding.check("alarms", 5)
    with pytest.raises(TransientError) as refused:
        shedding.check("nightly", 4)

    assert refused.value.reason == "hot"
    assert shedding.refused() == {("nightly", "hot"): 1.0}
    heat.look(zone(60.0))
    shedding.check("nightly", 4)


def test_nothing_gives_way_unless_it_is_asked_for() -> None:
    heat = Heat(schema.Board(hot_c=80.0))
    heat.look(zone(99.0))

    Shedding(heat, schema.Board().shed_below_priority).check("any", 0)


def test_a_counter_of_joules_wraps() -> None:
    joules = Joules()
    for microjoules in (90.0, 97.0, 3.0, 5.0):
        joules.look(
            Board(energies=(Energy(id="intel-rapl:0", name="package-0", joules=microjoules, wraps_at_j=100.0),)), 0
        )

    assert joules.whole == ("packages", 15.0)


def test_power_is_integrated_between_looks_and_not_over_a_gap() -> None:
    joules = Joules()
    for at_s, watts in ((0.0, 4.0), (10.0, 6.0), (1000.0, 6.0), (1002.0, 6.0)):
        joules.look(Board(powers=(Power(id="hwmon3/in1", name="VDD_IN", watts=watts),)), at_s)

    assert joules.whole == ("VDD_IN", 50.0 + 12.0)


def test_energy_is_charged_to_the_model_that_alone_computed() -> None:
    charges = Charges()
    charges.look(0.0, {"llm": {"calls": 1, "tokens_out": 10}, "series": {"calls": 5}})
    charges.look(30.0, {"llm": {"calls": 2, "tokens_out": 70}, "series": {"calls": 5}})
    charges.look(90.0, {"llm": {"calls": 3, "tokens_out": 90}, "series": {"calls": 9}})
    charges.look(99.0, {"llm": {"calls": 3, "tokens_out": 90}, "series": {"calls": 9}})
    charges.look(100.0, {"llm": {"calls": 3, "tokens_out": 90}, "series": {"calls": 11}})

    charge = charges.by_model["llm"]
    assert (charge.joules, charge.calls, charge.tokens) == (30.0, 1.0, 60.0)
    assert (charges.by_model["series"].joules, charges.by_model["series"].calls) == (1.0, 2.0)


def test_without_a_counter_nothing_is_charged() -> None:
    charges = Charges()
    charges.look(None, {"llm": {"calls": 1}})
    charges.look(None, {"llm": {"calls": 2}})

    assert charges.by_model == {}


def metrics(watch: BoardWatch) -> dict[str, float]:
    """Values of the board's metrics by name and labels, as the page has them."""
    environment: Any = type("E", (), {"otlp_endpoint": None})()
    telemetry = Telemetry.build(TelemetryConfig(), environment, gateway="gw", version="1")
    observe_board(telemetry, watch)
    page = telemetry.prometheus().decode()
    telemetry.shutdown()
    lines = [
        line
        for line in page.splitlines()
        if line.startswith(("hw_", "system_cpu", "gatewayd_board", "gatewayd_model_"))
    ]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_the_metrics_have_the_names_of_the_conventions(tmp_path: Path) -> None:
    watch = BoardWatch.of(schema.Board(root=str(lay(tmp_path, JETSON, {"proc/loadavg": "1 2 3 1/2 3"}))))
    watch.look({"llm": {"calls": 1.0, "tokens_out": 0.0}}, 0.0)
    watch.look({"llm": {"calls": 2.0, "tokens_out": 30.0}}, 10.0)

    found = metrics(watch)

    assert found['hw_temperature_celsius{hw_id="thermal_zone0",hw_name="cpu-thermal"}'] == 48.937
    assert found['hw_host_power_watts{hw_id="hwmon3/in1",hw_name="VDD_IN"}'] == 6.0
    assert found['hw_host_energy_joules_total{hw_id="hwmon3/in1",hw_name="VDD_IN"}'] == 60.0
    assert found['hw_power_watts{hw_id="hwmon3/in2",hw_name="VDD_CPU_GPU_CV",hw_type="power_supply"}'] == 2.0
    assert found["system_cpu_load_average_1m"] == 1.0
    assert found['gatewayd_board_throttled{cause="frequency_capped"}'] == 0.0
    assert found['gatewayd_model_call_energy_joules{model="llm"}'] == 60.0
    assert found['gatewayd_model_token_energy_joules{model="llm"}'] == 2.0
    assert not [name for name in found if "frequency_hertz" in name]
