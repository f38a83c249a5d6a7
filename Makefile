# make chat               install, then chat with the bundled model      (make chat PROMPT="你好" answers once)
# make serve              install, then serve it: a web page and OpenAI's API at http://127.0.0.1:8000
# make quick              lint, types and the tests of the rooms changed since the last commit, or of ROOM       (< 60 s)
# make test               install, then run the tests                    (about 10 minutes on 2 cores)
# make check              lint, types, all tests, slow ones included      (<= 40 minutes on 2 cores)
# make sanitize           the kernel tests under AddressSanitizer and UBSan      (g++; about 6 minutes)
# make fuzz-kernels       the kernels against their references at 10,000 random shapes
# make fuzz-http          500 random requests of each kind, valid and invalid    (a few minutes)
# make test-clients       main uses of 16 client libraries, as published, against our server (about 7 minutes)
# make soak               the engine against its oracle at 100,000 random schedules  (about 90 minutes on 2 cores)
# make docs               write docs/cli.md from the commands, docs/rooms.md from the docstrings
# make mutate             remove each guard of the server in turn: its test must fail (about 8 minutes on 2 cores)
# make security-table     regenerate the tables of docs/security.md
# make site               the documentation as a site, into build/site; a broken link fails
# make dist               source archive, Linux wheel and pure wheel into dist/, checked      (1 minute)
# make demo-card          measure the bundled model and write its card into docs/demo_card    (3 minutes, otherwise idle)
# make demo-model         train the bundled model from scratch           (hours on 2 cores)
#
# Variables: PYTHON, VENV, TORCH (what pip installs as torch), PROMPT, MODEL, ROOM.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Without an NVIDIA GPU, PyTorch's own index of CPU builds: the default build includes gigabytes of CUDA.
CPU_TORCH := torch>=2.10 --index-url https://download.pytorch.org/whl/cpu
ifeq ($(shell command -v nvidia-smi 2>/dev/null),)
TORCH ?= $(CPU_TORCH)
else
TORCH ?= torch>=2.10
endif

VOCABULARY_PACKAGE := dashscope==2.0.2   # contains the published vocabulary, which tests use if available

.PHONY: chat serve quick test check lint slow sanitize fuzz-kernels fuzz-http test-clients soak mutate security-table docs site dist \
        demo-card demo-model clean

chat: $(VENV)/.installed
	@$(BIN)/qwartet chat $(MODEL) $(if $(PROMPT),--prompt "$(PROMPT)")

serve: $(VENV)/.installed-server
	@$(BIN)/qwartet serve $(MODEL)

# The tests start about a hundred processes: each would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

quick: $(VENV)/.installed-test
	$(BIN)/python -m tests.quick $(ROOM)

test: $(VENV)/.installed-test build/vocabulary
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: lint test slow test-clients

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slow: $(VENV)/.installed-test build/vocabulary
	$(BIN)/python -m pytest -m slow

sanitize: $(VENV)/.installed-test
	$(BIN)/python -m tests.kernels.sanitized pytest -q tests/kernels

fuzz-kernels: $(VENV)/.installed-test
	$(BIN)/python -m tests.kernels.fuzz

fuzz-http: $(VENV)/.installed-test
	QWARTET_FUZZ_EXAMPLES=500 $(BIN)/python -m pytest tests/server/test_openapi.py

soak: $(VENV)/.installed-test
	$(BIN)/python -m tests.engine.soak

# Through a file of its own: a failure leaves the document as it was.
docs: $(VENV)/.installed-test
	@mkdir -p build
	$(BIN)/python -m qwartet.cli.reference > build/cli.md
	mv build/cli.md docs/cli.md
	$(BIN)/python -m tests.room_table

# Each client in an environment of its own under build/clients. One needs torch, for which the CPU build suffices.
test-clients: $(VENV)/.installed-test
	$(BIN)/python -m tests.clients.run --torch "$(if $(filter file,$(origin TORCH)),$(CPU_TORCH),$(TORCH))"

mutate: $(VENV)/.installed-test
	$(BIN)/python -m tests.mutations.run

security-table: $(VENV)/.installed-test
	$(BIN)/python -m tests.security_table

# Without its notice about MkDocs 2: this project pins 1.x.
site: $(VENV)/.installed
	@$(PIP) install --quiet "mkdocs-material>=9.6,<10" "mkdocs>=1.6,<2"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The pure wheel is for processors without native kernels; on the others pip prefers the Linux wheel.
dist: $(VENV)/.installed
	@$(PIP) install --quiet --editable ".[dist]"
	rm -rf dist build/wheels
	$(BIN)/python -m build --outdir build/wheels
	QWARTET_PURE_WHEEL=1 $(BIN)/python -m build --wheel --outdir dist
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist build/wheels/*linux_*.whl
	mv build/wheels/*.tar.gz dist
	$(BIN)/python -m tests.wheels dist
	$(BIN)/twine check --strict dist/*

DEMO_NEEDLE := --needle-text "Waschorbul is 71 years old." --needle-question "How old is Waschorbul?" --needle-answer 71

demo-card: $(VENV)/.installed-test
	rm -rf build/demo-card build/demo-data
	$(BIN)/python -m recipes.demo.benchmarks build/demo-data
	$(BIN)/qwartet card qwartet/demo --out build/demo-card --data build/demo-data --tasks gsm8k,tools,needle \
	    --evaluate-options '--hay build/demo-data/hay.txt --needle-lengths 256,512,1K,2K $(DEMO_NEEDLE)' \
	    --profile-options '--contexts 1,512,1536 --generate 512 --kv-cache-dtype auto,int8'
	mkdir -p docs/demo_card
	cp build/demo-card/card.* build/demo-card/*.svg docs/demo_card

demo-model: $(VENV)/.installed-test
	$(BIN)/python -m recipes.demo.make --install

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

NATIVE_SOURCES := $(wildcard qwartet/kernels/cpu/csrc/*) qwartet/kernels/cpu/build.py hatch_build.py

$(VENV)/.installed: pyproject.toml $(NATIVE_SOURCES) | $(BIN)/python
	@echo "Installing torch and Qwartet into $(VENV) (once; about 200 MB)"
	@$(PIP) install $(foreach word,$(TORCH),"$(word)")
	@$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.installed-server: pyproject.toml $(VENV)/.installed
	@$(PIP) install --quiet --editable ".[server]"
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(VENV)/.installed
	@$(PIP) install --quiet --editable ".[test,lint,peers]"
	@touch $@

build/vocabulary:
	@mkdir -p $@
	-@$(PIP) download --quiet --no-deps --dest $@ $(VOCABULARY_PACKAGE)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
