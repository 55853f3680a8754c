# kvmigd. `make demo` shows it, `make test` proves it; both bring what they need to a fresh Debian 12 as root.

PREFIX ?= /usr
DESTDIR ?=
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The interpreter on the hosts that `make install` prepares; its version must be that of PYTHON.
HOST_PYTHON ?= /usr/bin/python3
TARGET = $(DESTDIR)$(PREFIX)
LIB = $(PREFIX)/lib/kvmigd

.PHONY: demo test test-fast lint types unit bus lab bench docs install uninstall clean

$(VENV)/.done: pyproject.toml tools/prepare
	tools/prepare
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/.done
	$(BIN)/python -m tests.lab prepare
	$(BIN)/python -m tests.demo

test: test-fast lab

# Two at a time: much of the time is waiting.
test-fast: lint
	$(MAKE) --no-print-directory --jobs=2 --output-sync types unit bus

lint: $(VENV)/.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.done
	$(BIN)/mypy

unit: $(VENV)/.done
	$(BIN)/pytest -q tests/unit

bus: $(VENV)/.done
	$(BIN)/pytest -q tests/bus

lab: $(VENV)/.done
	$(BIN)/python -m tests.lab prepare
	$(BIN)/pytest -v tests/lab

# What is made of the code: the catalogue of checks.
docs: $(VENV)/.done
	$(BIN)/kvmigctl explain --markdown > docs/checks.md

bench: $(VENV)/.done
	@test -n "$(NAME)" || { echo "usage: make bench NAME=overhead|idle|loss|events|truth|check|readiness"; exit 2; }
	$(BIN)/python -m tests.lab prepare
	$(BIN)/python -m tests.bench.$(NAME)

# A self-contained tree in PREFIX/lib/kvmigd, with the libraries that distributions do not have or have too old.
# Packages that bring these themselves say DEPENDENCIES=no.
DEPENDENCIES ?= yes
install:
	install -d $(DESTDIR)$(LIB)/bin $(TARGET)/bin $(TARGET)/lib/systemd/system $(TARGET)/lib/systemd/catalog
	install -d $(TARGET)/share/dbus-1/system.d $(TARGET)/share/dbus-1/system-services $(TARGET)/share/dbus-1/interfaces
	install -d $(TARGET)/share/polkit-1/actions $(TARGET)/share/man/man1 $(TARGET)/share/man/man8
	install -d -m 755 $(DESTDIR)/etc/kvmigd/peers.d
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-compile --upgrade --target $(DESTDIR)$(LIB)/site \
	  --no-warn-conflicts $(if $(filter no,$(DEPENDENCIES)),--no-deps) .
	rm -rf $(DESTDIR)$(LIB)/site/bin build *.egg-info
	$(PYTHON) -m compileall -q -s '$(DESTDIR)' --invalidation-mode unchecked-hash $(DESTDIR)$(LIB)/site
	for name in kvmigd:daemon kvmigctl:cli; do \
	  sed -e 's|@PYTHON@|$(HOST_PYTHON)|; s|@LIB@|$(LIB)|' -e "s|@MODULE@|kvmigd.$${name#*:}|" data/launcher.py \
	    > $(DESTDIR)$(LIB)/bin/$${name%:*}; chmod 755 $(DESTDIR)$(LIB)/bin/$${name%:*}; done
	ln -sf $(LIB)/bin/kvmigctl $(TARGET)/bin/kvmigctl
	for unit in kvmigd.service kvmigd-evacuate.service kvmigd-storage.socket kvmigd-storage@.service; do \
	  sed 's|@PREFIX@|$(PREFIX)|g; s|@PYTHON@|$(HOST_PYTHON)|g' data/systemd/$$unit \
	    > $(TARGET)/lib/systemd/system/$$unit; done
	install -m 644 data/systemd/kvmigd.catalog $(TARGET)/lib/systemd/catalog/
	install -m 644 data/dbus/org.kvmigd1.conf $(TARGET)/share/dbus-1/system.d/
	install -m 644 data/dbus/org.kvmigd1.service $(TARGET)/share/dbus-1/system-services/
	install -m 644 data/dbus/org.kvmigd1.*.xml $(TARGET)/share/dbus-1/interfaces/
	install -m 644 data/polkit/org.kvmigd1.policy $(TARGET)/share/polkit-1/actions/
	install -m 644 data/man/kvmigctl.1 $(TARGET)/share/man/man1/
	install -m 644 data/man/kvmigd.8 $(TARGET)/share/man/man8/

uninstall:
	rm -rf $(DESTDIR)$(LIB)
	rm -f $(TARGET)/bin/kvmigctl $(TARGET)/share/dbus-1/*/org.kvmigd1*
	rm -f $(addprefix $(TARGET)/lib/systemd/system/kvmigd,.service -evacuate.service -storage.socket -storage@.service)
	rm -f $(TARGET)/lib/systemd/catalog/kvmigd.catalog
	rm -f $(TARGET)/share/polkit-1/actions/org.kvmigd1.policy
	rm -f $(TARGET)/share/man/man1/kvmigctl.1 $(TARGET)/share/man/man8/kvmigd.8

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
