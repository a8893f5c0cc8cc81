# Las órdenes de quien desarrolla. `make test` es todo lo que hace falta tras clonar.
# Cada Python tiene su entorno en .venv/, con las herramientas de requirements-dev.txt.

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv/$(VERSION)
BIN := $(VENV)/bin
COVERAGE ?= yes
# Dos procesos de pruebas bastan: casi todas esperan a otros procesos, no al procesador.
PYTEST := $(BIN)/python -m pytest -n 2

BENCH := .venv/bench-$(VERSION)
# Sin más, la medida entera, que se escribe en docs/ y en el README. Para ver solo algo:
# make bench BENCH_OPTIONS="--trabajos rr,p16 --servidores comunicacion"
BENCH_OPTIONS ?= --docs

# Sin más, la medida entera, que se escribe en docs/. Para ver solo algo: make soak SOAK_OPTIONS="--escenarios storm"; con
# --docs además, se escribe solo su fila.
SOAK_OPTIONS ?= --docs

FUZZ := .venv/fuzz-$(VERSION)
FUZZ_RUNS ?= 10000000
# Con FUZZ_KEEP=1 se queda en fuzz/corpus.txt con lo nuevo que encuentre.
FUZZ_KEEP ?=

.PHONY: bench soak share help test test-all lint types tests fuzz atheris format install install-all clean

help:
	@echo 'make test       estilo, tipos y pruebas con $(PYTHON) (lo instala todo en .venv/)'
	@echo 'make test-all   lo mismo, con las pruebas repetidas en cada Python desde 3.10 que haya'
	@echo 'make fuzz       el protocolo contra su modelo: cien mil ejemplos de cada propiedad y diez millones de entradas'
	@echo 'make bench      la velocidad, junto a la de otros servidores y a la de uno en C'
	@echo 'make soak       la fiabilidad: lo que aguanta el servidor cuando todo va mal'
	@echo 'make share      el manual y lo que completan bash, zsh y fish, desde las opciones de los programas'
	@echo 'make format     pone el estilo'
	@echo 'make clean      borra lo generado'

test: lint types tests

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

# protocol.py es la pieza de la que depende todo: ni una rama sin probar.
tests: install
ifeq ($(COVERAGE),no)
	$(PYTEST)
else
	COVERAGE_FILE=.coverage.$(VERSION) $(PYTEST) --cov --cov-report=term
	COVERAGE_FILE=.coverage.$(VERSION) $(BIN)/coverage report --include='*/protocol.py' --fail-under=100
endif

# La cobertura, en el primero: la misma en todos, y con ella las pruebas tardan el doble.
test-all: lint types
	@set -e; coverage=yes; for python in $$($(PYTHON) tools/find_pythons.py); do \
		echo "== $$python"; $(MAKE) --no-print-directory tests PYTHON="$$python" COVERAGE=$$coverage; coverage=no; \
	done

fuzz: install
	$(PYTEST) tests/test_protocol_property.py --hypothesis-profile=long
	@$(MAKE) --no-print-directory atheris

# La parte guiada por la cobertura, sola: un proceso, en un procesador.
atheris: $(FUZZ)/ready
	$(FUZZ)/bin/python -m fuzz.run --entradas $(FUZZ_RUNS) $(if $(FUZZ_KEEP),--guarda)

$(FUZZ)/ready: requirements-fuzz.txt
	$(PYTHON) -m venv --clear $(FUZZ)
	$(FUZZ)/bin/python -m pip install --quiet --disable-pip-version-check --retries 5 --requirement requirements-fuzz.txt
	touch $@

bench: $(BENCH)/ready
	$(BENCH)/bin/python -m benchmarks.run $(BENCH_OPTIONS)

soak: install
	$(BIN)/python -m soak.run $(SOAK_OPTIONS)

$(BENCH)/ready: requirements-bench.txt
	$(PYTHON) -m venv --clear $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --retries 5 --requirement requirements-bench.txt
	touch $@

share: install
	$(BIN)/python -m tools.share

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(VENV)/ready

install-all:
	@set -e; for python in $$($(PYTHON) tools/find_pythons.py); do \
		$(MAKE) --no-print-directory install PYTHON="$$python"; \
	done

$(VENV)/ready: requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Hace falta Python 3.10 o posterior: make test PYTHON=python3.12")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 5 --requirement requirements-dev.txt
	touch $@

clean:
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage* dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
