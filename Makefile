# Las órdenes de quien desarrolla. `make test` es todo lo que hace falta tras clonar.
# Cada Python tiene su entorno en .venv/, con las herramientas de requirements-dev.txt.

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv/$(VERSION)
BIN := $(VENV)/bin
# Seis procesos de pruebas aunque haya dos procesadores: casi todo el tiempo, una prueba espera a otro proceso.
WORKERS ?= 6
PYTEST := $(BIN)/python -m pytest -n $(WORKERS)
# Las que bastan para pasar por cada rama de protocol.py. No arrancan ningún programa: medirlas cuesta segundos.
PROTOCOL_TESTS := tests/test_protocol.py tests/test_protocol_property.py tests/test_fuzz_corpus.py
# Lo que no depende de la versión de Python: lo que otros programas dicen de deploy/, lo que miden make bench y
# make soak, en corto, y cómo está ordenado el código. Un fichero que no esté aquí se prueba en todas.
SAME_IN_EVERY_PYTHON := $(wildcard tests/test_deploy*.py) \
	$(addprefix tests/test_, architecture.py benchmarks.py old_python.py sizing.py soak.py)

BENCH := .venv/bench-$(VERSION)
# Sin más, la medida entera, que se escribe en docs/ y en el README. Para ver solo algo:
# make bench BENCH_OPTIONS="--trabajos rr,p16 --servidores comunicacion"
BENCH_OPTIONS ?= --docs

# Sin más, la medida entera, que se escribe en docs/. Para ver solo algo: make soak SOAK_OPTIONS="--escenarios storm"; con
# --docs además, se escribe solo su fila.
SOAK_OPTIONS ?= --docs

MUTANTS := .venv/mutants-$(VERSION)
# Sin más, todos los módulos. Para ver solo algunos: make mutants MUTANTS_MODULES="deadlines admission"
MUTANTS_MODULES ?=

FUZZ := .venv/fuzz-$(VERSION)
FUZZ_RUNS ?= 10000000
# Con FUZZ_KEEP=1 se queda en fuzz/corpus.txt con lo nuevo que encuentre.
FUZZ_KEEP ?=

PUBLIC := .venv/types-$(VERSION)

.PHONY: types-public test-new bench soak share help test test-all lint types protocol tests tests-between coverage \
	mutants fuzz atheris format install install-all clean

help:
	@echo 'make test       estilo, tipos y pruebas con $(PYTHON) (lo instala todo en .venv/)'
	@echo 'make test-all   lo mismo, con las pruebas repetidas en cada Python desde 3.10 que haya'
	@echo 'make coverage   la cobertura de todo, con la de los programas que arrancan las pruebas'
	@echo 'make mutants    cambia el código de una en una cosa, y dice qué cambios no nota ninguna prueba'
	@echo 'make fuzz       el protocolo contra su modelo: cien mil ejemplos de cada propiedad y diez millones de entradas'
	@echo 'make test-new   las pruebas en Python 3.14 y 3.15, en una Debian que se descarga en .venv/ (siendo root)'
	@echo 'make types-public  que ningún tipo de la biblioteca falte para quien la usa (pyright)'
	@echo 'make bench      la velocidad, junto a la de otros servidores y a la de uno en C'
	@echo 'make soak       la fiabilidad: lo que aguanta el servidor cuando todo va mal'
	@echo 'make share      el manual y lo que completan bash, zsh y fish, desde las opciones de los programas'
	@echo 'make format     pone el estilo'
	@echo 'make clean      borra lo generado'

test: lint types protocol tests

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

# Para pyright, lo que hay en esta carpeta es un paquete instalado: solo de esos mira si están todos los tipos.
types-public: $(PUBLIC)/ready
	PYTHONPATH=. PATH="$(abspath $(PUBLIC)/bin):$$PATH" $(PUBLIC)/bin/python -m pyright --verifytypes comunicacion_tcp --ignoreexternal

$(PUBLIC)/ready: requirements-types.txt
	$(PYTHON) -m venv --clear $(PUBLIC)
	$(PUBLIC)/bin/python -m pip install --quiet --disable-pip-version-check --retries 5 --requirement requirements-types.txt
	touch $@

# protocol.py es la pieza de la que depende todo: ni una rama sin probar.
protocol: install
	COVERAGE_FILE=.coverage.protocol $(BIN)/python -m pytest --quiet --hypothesis-profile=dev $(PROTOCOL_TESTS) \
		--cov=comunicacion_tcp.protocol --cov-report=term --cov-fail-under=100

tests: install
	$(PYTEST)

# En un Python de los de en medio: lo que puede ser distinto en él; de cada propiedad, 200 ejemplos también con CI=true.
tests-between: install
	$(PYTEST) --hypothesis-profile=dev $(addprefix --ignore=,$(SAME_IN_EVERY_PYTHON))

test-all: lint types protocol
	@set -e; pythons=$$($(PYTHON) tools/find_pythons.py); \
	oldest=$$(echo "$$pythons" | head -n 1); newest=$$(echo "$$pythons" | tail -n 1); \
	for python in $$pythons; do \
		case $$python in "$$oldest" | "$$newest") target=tests ;; *) target=tests-between ;; esac; \
		echo "== $$python: $$target"; $(MAKE) --no-print-directory $$target PYTHON="$$python"; \
	done

test-new:
	tools/new_pythons

mutants: $(MUTANTS)/ready
	$(MUTANTS)/bin/python -m tools.mutants $(MUTANTS_MODULES)

$(MUTANTS)/ready: requirements-dev.txt requirements-mutants.txt
	$(PYTHON) -m venv --clear $(MUTANTS)
	$(MUTANTS)/bin/python -m pip install --quiet --disable-pip-version-check --retries 5 \
		--requirement requirements-dev.txt --requirement requirements-mutants.txt
	touch $@

coverage: install
	COVERAGE_FILE=.coverage.$(VERSION) $(PYTEST) --cov --cov-report=term

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
