# make demo   set up, then train an SWWAE and its lambda = 0 twin on handwritten digits
# make test   set up, then run the tests
PYTHON ?= python3
VENV ?= .venv
INSTALLED := $(VENV)/.installed

.PHONY: demo test install
demo: install
	$(VENV)/bin/swwae train --recipe demo --force

test: install
	$(VENV)/bin/python -m pytest

install: $(INSTALLED)

# The stamp is written last: an interrupted installation is taken up again.
$(INSTALLED): pyproject.toml setup.py $(wildcard swwae_zoo/kernels/*.c swwae_zoo/kernels/*.h)
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -e '.[test]'
	touch $@
