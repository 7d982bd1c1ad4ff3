"""The Debian package: its files, its control file, its scripts, its unit. `make deb-test` installs it for real.

The package here is built with gatewayd alone in it (EXTRAS=none), without its libraries: the rest is the same.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gatewayd.config.load import check

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
SCRIPTS = ("config", "postinst", "postrm", "prerm")
UNIT = "usr/lib/systemd/system/gatewayd.service"


def build(folder: Path) -> Path:
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    done = subprocess.run(
        [ROOT / "tools/build-deb", folder],
        cwd=ROOT,
        env={**os.environ, "EXTRAS": "none", "PYTHON": python, "SOURCE_DATE_EPOCH": "1700000000"},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    if done.returncode and re.search(r"ensurepip|No matching distribution|Could not find a version", done.stderr):
        pytest.skip(f"{python} cannot build here: no venv, or no package index")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="module")
def root(package: Path) -> Path:
    """The package's files, unpacked, with its control files in DEBIAN/."""
    folder = package.parent / "root"
    subprocess.run(["dpkg-deb", "--raw-extract", package, folder], check=True, timeout=120)
    return folder


def test_its_control_file_says_what_it_is(package: Path) -> None:
    shown = subprocess.run(["dpkg-deb", "-f", package], capture_output=True, text=True, check=True, timeout=120).stdout
    fields = dict(re.findall(r"^(\S+): (.*)$", shown, re.MULTILINE))
    arch = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()

    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (fields["Package"], fields["Version"], fields["Architecture"]) == ("gatewayd", version, arch)
    assert "@" not in shown.replace("@gatewayd.invalid", "")
    python = re.search(r"python3 \(>= (3\.\d+)~\), python3 \(<< (3\.\d+)~\)", fields["Depends"])
    assert python is not None
    assert int(fields["Installed-Size"]) > 1000


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_maintainer_script_is_shell(name: str, root: Path) -> None:
    script = root / "DEBIAN" / name

    assert os.access(script, os.X_OK)
    done = subprocess.run(["sh", "-n", script], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "set -e" in script.read_text()


def test_the_config_is_a_conffile_that_only_root_and_the_service_read(package: Path, root: Path) -> None:
    assert (root / "DEBIAN/conffiles").read_text() == "/etc/gatewayd/gatewayd.toml\n"
    listed = subprocess.run(["dpkg-deb", "-c", package], capture_output=True, text=True, check=True, timeout=120).stdout
    [config] = [line for line in listed.splitlines() if line.endswith("./etc/gatewayd/gatewayd.toml")]
    assert config.startswith("-rw-r----- root/root")
    assert check(root / "etc/gatewayd/gatewayd.toml") == []
    assert {line.split()[1] for line in listed.splitlines()} == {"root/root"}


def test_what_the_unit_starts_is_in_the_package_and_runs_from_opt(root: Path) -> None:
    [start] = re.findall(r"^ExecStart=(\S+)", (root / UNIT).read_text(), re.MULTILINE)
    program = root / start.lstrip("/")

    assert program.read_text().splitlines()[0] in ("#!/opt/gatewayd/bin/python3", "#!/opt/gatewayd/bin/python")
    assert (root / "usr/bin/gatewayd").readlink() == Path("../../opt/gatewayd/bin/gatewayd")
    assert (root / UNIT).read_text() == (ROOT / "systemd/gatewayd.service").read_text()
    drop_in = (root / f"{UNIT}.d/package.conf").read_text()
    assert {"User=gatewayd", "Group=gatewayd", "DynamicUser=no"} <= set(drop_in.splitlines())
    assert (root / "opt/gatewayd/bin/python3").is_symlink()


def test_no_file_knows_where_it_was_built(root: Path) -> None:
    for path in (root / "opt/gatewayd/bin").iterdir():
        if path.is_file() and not path.is_symlink():
            assert "/tmp" not in path.read_text(errors="replace"), path
    assert "/tmp" not in (root / "opt/gatewayd/pyvenv.cfg").read_text()
    [module] = root.glob("opt/gatewayd/lib/python3.*/site-packages/gatewayd/__pycache__/daemon.*.pyc")
    assert b"/opt/gatewayd/lib/python3" in module.read_bytes()


def test_unit_documentation_completion_and_manual_are_there(root: Path) -> None:
    for path in (
        "usr/share/man/man1/gatewayd.1.gz",
        "usr/share/bash-completion/completions/gatewayd",
        "usr/share/zsh/vendor-completions/_gatewayd",
        "usr/share/fish/vendor_completions.d/gatewayd.fish",
        "usr/share/doc/gatewayd/README.md",
        "usr/share/doc/gatewayd/SECURITY.md",
        "usr/share/doc/gatewayd/copyright",
        "usr/share/doc/gatewayd/guides/troubleshooting.md",
        "usr/share/doc/gatewayd/observability/gatewayd.rules.yml",
        "usr/share/doc/gatewayd/examples/config.toml",
    ):
        assert (root / path).stat().st_size > 0, path
    [documented] = re.findall(r"Documentation=file://(\S+)", (root / UNIT).read_text())
    assert (root / documented.lstrip("/")).exists()


def test_its_sums_are_those_of_its_files(root: Path) -> None:
    lines = (root / "DEBIAN/md5sums").read_text().splitlines()
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and not path.is_symlink()}

    assert {line.split("  ", 1)[1] for line in lines} == {path for path in files if not path.startswith("DEBIAN/")}
    digest, path = lines[0].split("  ", 1)
    assert hashlib.md5((root / path).read_bytes()).hexdigest() == digest


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_installed_unit_is_as_hardened_as_the_one_of_the_repository(root: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--root={root}", "gatewayd.service"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    found = re.search(r"exposure level for gatewayd\.service: ([0-9.]+)", said.stdout)
    assert found is not None, said.stderr
    assert float(found.group(1)) <= 1.5
    assert "static non-root user" in said.stdout


@pytest.mark.slow
def test_the_same_sources_give_the_same_package(package: Path, tmp_path: Path) -> None:
    again = build(tmp_path)

    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(package.read_bytes()).digest()
