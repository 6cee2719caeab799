# make demo    set up, then train an SWWAE and its lambda = 0 twin on handwritten digits
# make check   set up, then lint, check formatting, types and the order of imports
# make docs    set up, then build the documentation as a site into site/; a warning fails
# make test    set up, then run the tests on JOBS processes; TESTS="-m slow" runs the slow ones instead
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
TESTS ?=
INSTALLED := $(VENV)/.installed

.PHONY: demo check docs test install
demo: install
	$(VENV)/bin/swwae train --recipe demo --force

check: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mkdocs build --strict --quiet --site-dir $(VENV)/site

test: install
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal $(TESTS)

install: $(INSTALLED)

# The stamp is written last, so that an interrupted installation is repeated.
$(INSTALLED): pyproject.toml setup.py $(wildcard swwae_zoo/kernels/*.c swwae_zoo/kernels/*.h)
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -e '.[dev]'
	touch $@

docs: install
	$(VENV)/bin/mkdocs build --strict
