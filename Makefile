VENV ?= .venv
PYTHON ?= python3
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test drills drill-kills drill-anomalies fuzz attacks site release-check clean

help:
	@echo "make setup   create $(VENV) and install the package with its demo and dev extras"
	@echo "make demo    setup, then run the demo into demo-output/"
	@echo "make test    setup, then lint, format check, type check, import check and tests"
	@echo "make fuzz    setup, then 100,000 mutated files; writes their counts into docs/trust-files.md"
	@echo "make attacks setup, then flipped bits and the worst hostile files; writes their numbers there, too"
	@echo "make drills  setup, then kill every command that writes, at random moments, and let its disk fail; under 30 minutes"
	@echo "make site    setup, then build the documentation into site/, strictly"
	@echo "make release-check  setup, then build wheel and sdist, and try them in fresh environments"
	@echo "make clean   remove .venv, caches and demo-output/"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -c constraints.txt -e '.[demo,dev]'
	touch $@

demo: setup
	$(VENV)/bin/bertsurgeon demo --output demo-output --overwrite

test: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n logical --dist loadfile --no-loadscope-reorder  # a thread each: more would wait for each other

fuzz: setup
	OMP_NUM_THREADS=1 $(VENV)/bin/python attacks/fuzz/run.py --cases 100000 --write

attacks: setup
	OMP_NUM_THREADS=1 $(VENV)/bin/python attacks/flips.py --flips 60 --write
	OMP_NUM_THREADS=1 $(VENV)/bin/python attacks/measure.py --write

drills: setup
	$(MAKE) -j 2 drill-kills drill-anomalies
	$(VENV)/bin/python drills/make_docs.py

drill-kills:
	OMP_NUM_THREADS=1 $(VENV)/bin/python drills/kills.py --folder runs/drill-kills

drill-anomalies:
	OMP_NUM_THREADS=1 $(VENV)/bin/python drills/anomalies.py --commands report,drop-layers,trim-vocabulary,calibrate,prune
	OMP_NUM_THREADS=1 $(VENV)/bin/python drills/anomalies.py --commands recover,finetune,gradual --step 25
	OMP_NUM_THREADS=1 $(VENV)/bin/python drills/anomalies.py --commands export --step 10

site: setup
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build

# make release-check RELEASE_CHECK='--python 3.13 --transformers 5.0.0' selects environments.
release-check: setup
	$(VENV)/bin/python tools/check_release.py --record tools/release_checks.json $(RELEASE_CHECK)

# Another VENV than the default is its owner's to remove.
clean:
	rm -rf .venv demo-output dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests attacks drills experiments examples -name __pycache__ -type d -prune -exec rm -rf {} +
