# make demo         a cell of three peers loses two leaders in the middle of an analysis
# make demo-serve   a cell to look at, until Ctrl-C
# make test         all tests but the slow suites (docs/testing.md)
# make test-versions   the tests with the oldest and the newest distributed that we allow
# make lint         ruff, mypy and bandit
# make audit        known vulnerabilities of what is installed; asks a service on the network
# make docs         the generated pages of docs/: docs/generate_*.py
# make clean        remove what these have made

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check

.PHONY: demo demo-serve test test-versions lint audit docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/python -m demo

demo-serve: $(VENV)/.demo
	$(BIN)/python -m demo --serve

# Most tests wait more than they work; those with a cell of real processes do both (docs/testing.md).
# Neighbours share what they set up, so each process begins with a run of them and takes more later.
NONE_WILL_DO := || test $$? -eq 5  # as pytest says that no test was chosen
test: $(VENV)/.demo $(VENV)/.test
	$(BIN)/python -m pytest -q --part=parallel -n 3 --dist worksteal $(PYTEST_ARGS) $(NONE_WILL_DO)
	$(BIN)/python -m pytest -q --part=cells -n 2 --dist loadfile $(PYTEST_ARGS) $(NONE_WILL_DO)

test-versions:
	scripts/test-versions $(PYTEST_ARGS)

lint: $(VENV)/.demo $(VENV)/.test $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p ha_scheduler -p client_replay -p demo -p chaos
	$(BIN)/mypy examples
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml ha_scheduler client_replay demo chaos

audit: $(VENV)/.demo $(VENV)/.audit
	$(BIN)/pip-audit --local --skip-editable

docs: $(VENV)/.demo
	for generator in docs/generate_*.py; do $(BIN)/python $$generator || exit 1; done

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each extra of pyproject.toml, so that the demo does not wait for the linters.
$(VENV)/.demo $(VENV)/.test $(VENV)/.lint $(VENV)/.audit: $(VENV)/.%: pyproject.toml | $(BIN)/python
	@echo "installing .[$*] into $(VENV)"
	@$(INSTALL) --editable '.[$*]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || scripts/install-system-packages
	@$(PYTHON) -m venv $(VENV)
