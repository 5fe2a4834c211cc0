# Every target sets up what it needs. `make demo` and `make test` are the two that a newcomer wants.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
VIDEO  ?=
OUT    ?= out/demo
export VIDEO OUT
MANY   := -n auto --maxprocesses 8 --dist loadscope
# there is a process of tests for each core, so none of them starts threads or workers for all cores
ONE_CORE := OMP_NUM_THREADS=1 LOKY_MAX_CPU_COUNT=1

.PHONY: demo test check lab bench scale fuzz fresh docs weights prepare readme clean
.DEFAULT_GOAL := demo

$(READY): settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "microvid_nb needs Python 3.10 or newer; name one with: make PYTHON=python3.12")'
	@$(PYTHON) tools/set_up.py
	@if [ -d .git ]; then $(BIN)/nbdev_install_hooks; fi
	@touch $@

demo: $(READY)  ## all that can be said of VIDEO (a file, a folder, or clips of MicroWorld), as a page
	@$(BIN)/microvid card $${VIDEO:+"$$VIDEO"} --out "$$OUT" || [ $$? -eq 1 ]  # 1: some files could not be used, as the page says

test: $(READY)  ## in about six minutes: unit tests and oracles, export, README, API, all tutorials, a notebook of each folder
	@$(ONE_CORE) $(BIN)/python -m pytest tests -m 'not check' $(MANY)

check: $(READY)  ## the rest, in half an hour: every notebook, site, wheel, browser, fuzz, experiments at tiny scale
	@$(ONE_CORE) $(BIN)/python -m pytest tests -m check $(MANY)

lab: $(READY)  ## JupyterLab on the notebooks
	@$(BIN)/jupyter lab nbs

bench: $(READY)  ## the speed table, as ratios against peers on the same work
	@mkdir -p .benchmarks && rm -f .benchmarks/raw.json
	@status=0; $(BIN)/python -m pytest benchmarks --benchmark-json=.benchmarks/raw.json --benchmark-quiet -q || status=$$?; \
	$(BIN)/python benchmarks/table.py .benchmarks/raw.json; exit $$status

scale: $(READY)  ## time and memory at the sizes of the papers, as data doubles (half an hour, 5 GB of disk)
	@status=0; $(BIN)/python benchmarks/scale.py || status=$$?; $(BIN)/python benchmarks/table.py; exit $$status

fuzz: $(READY)  ## 10,000 seeded bad files over all readers, in parallel (MICROVID_FUZZ=100000 for more)
	@$(ONE_CORE) MICROVID_FUZZ=$${MICROVID_FUZZ:-10000} $(BIN)/python -m pytest tests/fuzz -q -n auto --maxprocesses 8 --dist load

fresh: $(READY)  ## the tutorials in clean environments of every Python that is here (a quarter of an hour and 7 GB each)
	@MICROVID_FRESH=1 $(BIN)/python -m pytest tests/fresh -v

docs: $(READY)  ## the site, into _docs/: by Quarto, or without it by Sphinx
	@$(BIN)/python tools/make_site.py

weights: $(READY)  ## the small checkpoints that come with the package, trained on MicroWorld anew
	@for task in thumbnail gif classify venue; do $(BIN)/microvid train $$task --half --out microvid_nb/weights/$$task.safetensors || exit 1; done
	@$(BIN)/python tools/make_points.py

prepare: $(READY)  ## after editing: export, run every notebook so that saved outputs are true, clean, README
	@$(BIN)/nbdev_export
	@$(BIN)/python tools/run_notebooks.py
	@$(BIN)/nbdev_clean
	@$(MAKE) --no-print-directory readme

readme: $(READY)  ## README.md from nbs/index.ipynb
	@$(BIN)/python tools/make_readme.py

clean:  ## what the targets above made
	rm -rf $(VENV) out _docs _proc build *.egg-info .pytest_cache .hypothesis .benchmarks
	find . -name __pycache__ -prune -exec rm -rf {} +
