# `make demo` and `make test` are the only commands that a fresh Debian or Raspberry Pi OS machine needs.

PYTHON ?=
SABOTAGE ?=
WORKLOAD ?= $(addprefix tests.power.edge:,offline online dead sealing)
CUTS ?= 50
SEEDS ?= 20
BIN := .venv/bin
PY := $(BIN)/python
# What the tests need: ALSA without a sound card, a wall clock that steps, and sticks.
TEST_PACKAGES := pulseaudio pulseaudio-utils libasound2-plugins alsa-utils flac faketime dosfstools ntfs-3g
STAMP := .venv/.made-by-make-env
EXTRAS := --extra receive --extra demo --extra alsa --group dev
COMPILE = $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command 'make lock' --quiet $(LOCK_OPTIONS)

.PHONY: help
help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make demo          the whole path on this machine, live, with cut connections; SABOTAGE=drop must fail
.PHONY: demo
demo: env
	@$(PY) -m edge demo $(if $(SABOTAGE),--sabotage $(SABOTAGE))

## make test          all fast tests; the core is covered to the last branch
.PHONY: test
test: env packages
	@$(PY) -m pytest --cov=edge/core --cov-branch --cov-report=term --cov-fail-under=100 tests/core
	@$(PY) -m pytest tests --ignore=tests/core

## make check         style and types
.PHONY: check
check: env
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy --strict edge tests

## make ci-long       the long tests
.PHONY: ci-long
ci-long: env packages
	@# The search of the core computes, what needs a network waits: side by side. The rest has the machine to itself.
	@$(PY) -m tests.tools.abreast "-m long tests/core" "-m long tests/network -k strict" \
		"-m long tests/network -k 'not strict'" "-m long tests/adapters"
	@$(PY) -m pytest -m long tests --ignore=tests/core --ignore=tests/network --ignore=tests/adapters

## make bench-drain   how fast a backlog drains
.PHONY: bench-drain
bench-drain: env
	@$(PY) -m tests.bench.drain

## make bench-cpu     CPU and memory beside ffmpeg
.PHONY: bench-cpu
bench-cpu: env
	@tests/tools/debian ffmpeg $(TEST_PACKAGES)
	@$(PY) -m tests.bench.cpu

## make bench-link    how fast and how cheap the link watch is, as root
.PHONY: bench-link
bench-link: env
	@$(PY) -m tests.bench.link

## make bench-network from a link's event to audio handled again, beside a floor and the clients of today, as root
.PHONY: bench-network
bench-network: env
	@tests/tools/debian iproute2 nftables
	@tests/tools/debian nodejs npm || echo 'Two of the clients of today are left out.'
	@$(PY) -m tests.bench.network

## make campaign      random faults against the strict server
.PHONY: campaign
campaign: env
	@$(PY) -m tests.campaign

## make chaos         SEEDS=20 random schedules of everything that can go wrong, at 10 x the pace; goes on where it was
.PHONY: chaos
chaos: env
	@$(PY) -m tests.chaos --seeds 0:$(SEEDS)

## make test-power    200 power cuts of the recorder on a real ext4 disk, as root; WORKLOAD=tests.power.edge:unsynced must fail
.PHONY: test-power
test-power: env
	@tests/tools/debian qemu-system-common e2fsprogs util-linux
	@set -e; for workload in $(WORKLOAD); do \
		$(PY) -m tests.power --cuts $(CUTS) --runs 2 --workload $$workload; \
	done

## make env           .venv with everything, and the Debian packages; PYTHON=python3.12 picks another Python
.PHONY: env
env: $(STAMP)
	@:

$(STAMP): lock.txt pyproject.toml tests/tools/make-env
	@PYTHON=$(PYTHON) tests/tools/make-env $(STAMP)

.PHONY: packages
packages:
	@tests/tools/debian $(TEST_PACKAGES) || echo 'The tests that need them are skipped.'

## make lock          the newest versions into the lock files, and today's date into the program; LOCK_OPTIONS='--upgrade-package NAME'
.PHONY: lock
lock: env
	@$(PY) -m pip --disable-pip-version-check install --quiet uv
	$(COMPILE) $(EXTRAS) --output-file lock.txt
	$(COMPILE) --extra pi --group build --output-file lock-pi.txt
	sed -i "s|^BUILT_UTC_S = .*|BUILT_UTC_S = $$(date -u -d "$$(date -u +%F)" +%s).0  # $$(date -u +%F), 00:00|" edge/core/built.py

## make reference     README.md's generated parts
.PHONY: reference
reference: env
	@$(PY) -m tests.tools.reference
	@$(PY) -m tests.tools.states

## make clean         remove what can be made again
.PHONY: clean
clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage build out
	find edge tests -name __pycache__ -type d -prune -exec rm -rf {} +
