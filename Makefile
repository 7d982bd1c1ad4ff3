# The two commands of the README are `make demo` and `make test`; both do all the set-up themselves.
# ARGS goes to the command: `make demo ARGS="--seconds 30 --json"`, `make test ARGS="tests/unit -x"`.
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
# Tests at once: most of them wait for processes, so there may be more than cores. JOBS=0: one after the other.
JOBS ?= 4

.PHONY: help demo test faults bench lint types imports docs wheel deb deb-test sbom audit aarch64 clean

help:
	@echo "make demo    the main job: broker, devices, models, spool, cloud cut and restored"
	@echo "make test    every test, against a real Mosquitto"
	@echo "make deb     a Debian package for this machine's architecture, in dist/"
	@echo "make lint types imports docs wheel sbom audit aarch64    what CI checks besides"

demo: $(VENV)/.ready-demo
	@$(BIN)/gatewayd demo $(ARGS)

test: $(VENV)/.ready-dev
	@tools/need-mosquitto
	@tools/run-tests $(BIN)/python $(JOBS) $(ARGS)

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready-dev
	$(BIN)/mypy

imports: $(VENV)/.ready-dev
	$(BIN)/lint-imports

# kill -9, half-open links, a stormy cloud, wrong clocks: every case must hold. `make faults LONG=1` takes hours.
faults: $(VENV)/.ready-dev
	@tools/need-mosquitto
	@$(BIN)/python -m benchmarks.faults $(if $(LONG),--long) $(ARGS)

# Speed, each figure beside a baseline of the same run; under 15 minutes, and nothing else should run meanwhile.
bench: $(VENV)/.ready-dev
	@tools/need-mosquitto
	@$(BIN)/python -m benchmarks.speed $(ARGS)

# Write the generated files anew: config.toml and docs/reference.
docs: $(VENV)/.ready-dev
	$(BIN)/python -m gatewayd.reference --write

wheel: $(VENV)/.ready-dev
	rm -rf build dist
	$(BIN)/python -m build --wheel --outdir dist .

# A Debian package with its own Python environment; `make deb EXTRAS=` leaves the libraries for models out.
deb:
	@tools/build-deb dist

# Install, use, upgrade, remove and purge it in a Debian of its own, made by debootstrap. Takes minutes, needs root; for a
# person before a release, CI checks the package without installing it. ROOT=folder: a Debian that is there already.
deb-test: deb
	@tools/test-deb "$$(ls -t dist/gatewayd_*.deb | head -1)" $(ROOT)

# What is installed here, as CycloneDX 1.5: dist/sbom.json.
sbom: $(VENV)/.ready-dev
	@$(BIN)/python tools/sbom.py --write dist/sbom.json

# Known vulnerabilities of what is installed here, asked at PyPI or OSV; where neither can be reached, it says so.
audit: $(VENV)/.ready-dev
	@$(BIN)/python tools/audit.py

# Does every library have a wheel for a Raspberry Pi or a Jetson? Asks the package index, installs nothing.
aarch64: $(VENV)/.ready-dev
	@$(BIN)/python tools/aarch64.py

$(VENV)/.ready-%: pyproject.toml tools/set-up
	@tools/set-up $(VENV) $*
	@touch $@

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
