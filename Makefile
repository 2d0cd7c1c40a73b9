# Everything a person or CI does here. Two cover a fresh machine: `make parity` and `make test`.
#
# PYTHON       interpreter that .venv is made with (3.11 or 3.12).
# SYSTEM_TORCH set to 1 to build .venv over an interpreter that already has torch, as GPU boxes do.
# THREADS      CPU threads of parity and gate (1: parity/cli/threads.py says why).
# WORKERS      processes that run the tests, each computing on one thread (0: none beside pytest's own).
# OFFICIAL_ROOT, OFFICIAL_PYTHON  a checkout of another official release, and what runs it, for parity-gpu.
# MINUTES      after which thresholds begins no measurement; the same call goes on with the samples kept.
# REASON       why limits that thresholds or thresholds-quick would loosen are loosened.
# SEED         of the damage that hostile does.
# ENGINES      folder of the environments that test-engines builds, one an engine.
# EXECUTOR     of matrix: ray, or local; MATRIX_STORE is where its runs go and official ones are found again.
# MATRIX       file of matrix: matrix/tiny.toml, or matrix/ladder.toml.
# COMFYUI_ROOT a checkout of ComfyUI with Lightricks' nodes in it, for test-engines (docs/engines.md).
# INTERPRETER  use this interpreter as it is and make no .venv at all (a box without network that has everything).

PYTHON ?= python3
SYSTEM_TORCH ?=
THREADS ?= 1
WORKERS ?= 2
ENGINES ?= build/engines
SEED ?= 0
COMFYUI_ROOT ?=
EXECUTOR ?= ray
MATRIX ?= matrix/tiny.toml
MATRIX_STORE ?= $(CURDIR)/build/store

ifdef INTERPRETER
RUN := PYTHONPATH=$(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH)) $(INTERPRETER)
STAMP :=
else
RUN := .venv/bin/python
STAMP := .venv/.ready
endif

PARITY := $(RUN) -m parity.cli.app
# build/runs, GPU_OUT and WEIGHTS are make's own folders: runs and made checkpoints in them are replaced (--replace).
WEIGHTS := build/weights/tiny
CASES := tiny_ti2v tiny_ti2v_no_v2a
# What requests can do beside the main job: docs/coverage.md says which case sees what.
WIDE_CASES := tiny_text_only tiny_two_pictures tiny_unguided_30_steps tiny_two_loras
STAGED_CASES := tiny_distilled tiny_two_stage tiny_two_stage_hq tiny_keyframes
RELEASE_CASES := $(foreach release,1.1.2 1.2.0,release_$(release)_tiny_ti2v release_$(release)_tiny_ti2v_no_v2a) \
  $(addprefix release_1.2.0_,tiny_two_pictures tiny_tiles tiny_wide_tiles)
STAGED_RELEASE_CASES := release_1.1.2_tiny_two_stage \
  $(addprefix release_1.2.0_,tiny_distilled tiny_two_stage tiny_two_stage_hq tiny_keyframes)
GPU_DEVICE ?= cuda
GPU_WEIGHTS ?= forge:full:0
# one_stage, distilled, two_stage or two_stage_hq (25 frames alone): whose cases at full size are run, those with goldens.
PIPELINE ?= one_stage
GPU_CASES ?= $(addprefix ltx_2.3_$(PIPELINE)_,$(if $(filter two_stage_hq,$(PIPELINE)),,ti2v ti2v_no_v2a) ti2v_25f \
  $(if $(filter distilled two_stage,$(PIPELINE)),ti2v_25f_no_v2a))
GPU_ISOLATED ?= ltx_2.3_$(PIPELINE)_ti2v_25f
GPU_ISOLATED_STEPS ?= $(if $(filter distilled,$(PIPELINE)),7,15,29)
OFFICIAL_ROOT ?=
OFFICIAL_PYTHON ?=
# Goldens are of made weights: the real ones are judged live alone, as is a case that has no golden yet.
GPU_GOLDENS = $(GPU_CASES:%=golden/%/golden.json)
GPU_GOLDEN = $(if $(filter forge:%,$(GPU_WEIGHTS)),$(if $(filter-out $(wildcard $(GPU_GOLDENS)),$(GPU_GOLDENS)),,--golden))
GPU_OUT ?= build/gpu
GPU_MINUTES ?= 8.5
GPU_LIMITS ?= ltx_2.3_$(PIPELINE)_ti2v_25f,ltx_2.3_$(PIPELINE)_ti2v

# Images of containers set it; then each of the hundreds of processes below would compile these sources anew.
unexport PYTHONDONTWRITEBYTECODE
# Threads of one test that wait for one another leave the core to the other tests: three times less CPU time, same bits.
test test-package sweep test-all: export OMP_WAIT_POLICY := passive

.PHONY: help setup wheel parity matrix parity-gpu golden-gpu thresholds-gpu measurements \
  test test-package sweep test-all test-engines comfyui-root test-gpu test-browser check gate gate-installed gate-stages \
  gate-releases gate-release-stages gate-saved thresholds thresholds-quick coverage mutate hostile bench clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMP) ## Make .venv with pinned dependencies

# The pip that constraints.txt names takes two thirds of the time of what Python 3.11 brings, which is unpacked only where
# the interpreter has none to fetch it with. Python compiles what is imported; a third of what is installed ever is.
# Of data that lies in no package on purpose setuptools has a thousand lines to say.
IN_VENV := .venv/bin/python -m pip install --quiet --no-compile --constraint .venv/constraints.txt
.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv --without-pip $(if $(SYSTEM_TORCH),--system-site-packages) .venv
	$(if $(SYSTEM_TORCH),grep -vE '^(torch|torchaudio|triton)==' constraints.txt > .venv/constraints.txt,cp constraints.txt .venv/constraints.txt)
	$(PYTHON) -m pip --python .venv/bin/python install --quiet --ignore-installed --constraint .venv/constraints.txt pip || \
	  { .venv/bin/python -m ensurepip && $(IN_VENV) --upgrade pip; }
	$(IN_VENV) 'torch$(if $(SYSTEM_TORCH),,==2.13.0)'
	$(IN_VENV) --quiet --editable '.[official,diffusers,fleet,dev]'
	touch $@

$(WEIGHTS)/ltx-2.3.safetensors: $(STAMP) $(wildcard runners/forge/*.py runners/forge/*.json runners/forge/*.toml)
	$(PARITY) forge --preset tiny --seed 0 --out $(WEIGHTS) --replace

wheel: ## Build the wheel into build/dist; needs no .venv
	rm -rf build/lib build/dist
	$(or $(INTERPRETER),$(PYTHON)) -m pip wheel --quiet --no-deps --wheel-dir build/dist .

parity: $(WEIGHTS)/ltx-2.3.safetensors ## The main job: official and native on a real photograph, compared and judged
	$(PARITY) suite $(CASES:%=--case %) --weights $(WEIGHTS) --out build/runs --replace \
	  --threads $(THREADS) --taps '*'

# Engines of test-engines are in it where their variables name interpreters (matrix/tiny.toml).
matrix: $(STAMP) ## The tiny cases by native, diffusers and engines that are here, as rows on a Ray of this machine: the grid
	PARITY_STORE=$(MATRIX_STORE) $(PARITY) matrix $(MATRIX) --executor $(EXECUTOR) --out build/matrix --replace

gate: gate-installed gate-stages gate-releases gate-release-stages gate-saved ## All tiny cases, judged against the recorded goldens as well; CI reads its exit code

# The parts share nothing but the checkpoint: `make -j2 gate` runs them side by side, the longest first.
gate-installed: $(WEIGHTS)/ltx-2.3.safetensors
	$(PARITY) suite $(patsubst %,--case %,$(CASES) $(WIDE_CASES)) --weights $(WEIGHTS) --out build/runs --replace \
	  --threads $(THREADS) --taps '*' --golden

gate-stages: $(WEIGHTS)/ltx-2.3.safetensors
	$(PARITY) suite $(STAGED_CASES:%=--case %) --weights $(WEIGHTS) --out build/runs --replace \
	  --threads $(THREADS) --taps '*' --golden

# Later releases compute sound in fp32, whose sums differ from run to run on more than one thread.
gate-releases gate-release-stages: $(WEIGHTS)/ltx-2.3.safetensors
	$(PARITY) suite $(patsubst %,--case %,$(if $(filter %-stages,$@),$(STAGED_RELEASE_CASES),$(RELEASE_CASES))) \
	  --weights $(WEIGHTS) --out build/runs --replace --threads 1 --golden --taps '*'

# Numbers that came from a GPU.
gate-saved: $(STAMP)
	$(if $(wildcard golden/*/numbers/*.json),$(PARITY) rejudge)

# Stopped half-way or out of time, the same call goes on where it was.
parity-gpu: $(STAMP) ## The main job at full size on a GPU, every tap compared, every part of one case alone (PIPELINE=...)
	$(PARITY) suite $(GPU_CASES:%=--case %) --weights $(GPU_WEIGHTS) --device $(GPU_DEVICE) --taps '*' \
	  --out $(GPU_OUT)/runs --replace --report $(GPU_OUT)/report --resume --minutes $(GPU_MINUTES) --quiet \
	  $(GPU_ISOLATED:%=--isolate %) --isolate-steps $(GPU_ISOLATED_STEPS) \
	  $(OFFICIAL_ROOT:%=--official-root %) $(OFFICIAL_PYTHON:%=--runner-python %) \
	  $(GPU_GOLDEN)

golden-gpu: $(STAMP) ## Make the official runs of parity-gpu the ground truth, with native's numbers (REASON=...)
	$(foreach case,$(GPU_CASES),$(PARITY) bless $(GPU_OUT)/runs/$(case)/official --reason "$(REASON)" &&) true
	$(PARITY) rejudge $(GPU_CASES:%=--record $(GPU_OUT)/report/numbers_%_native_against_official.json)

# What is kept in GPU_OUT/limits is not measured again; GPU_OUT/limits/thresholds is to be copied over thresholds/.
thresholds-gpu: $(STAMP) ## Limits of the cases at full size on a GPU, the most useful members first; the same call goes on
	$(RUN) bench/limits.py --out $(GPU_OUT)/limits --cases $(GPU_LIMITS) --device $(GPU_DEVICE) --weights $(GPU_WEIGHTS) \
	  --minutes $(GPU_MINUTES) $(if $(COMPILED),--compiled)

measurements: ## Print the tables of docs/measurements, and put them into the documents that show them
	$(RUN) -m bench.table docs/measurements/*.json --into docs/measurements.md --into docs/engines.md --into docs/defects.md --into docs/tiers.md --into docs/fleet.md --into docs/full-size.md --into README.md

IN_PROCESSES := $(if $(filter-out 0,$(WORKERS)),-n $(WORKERS) --dist loadfile --no-loadscope-reorder) --benchmark-disable

test: $(STAMP) ## All tests that need neither a GPU nor a browser, but for whole catalogues
	$(RUN) -m pytest -m 'not gpu and not browser and not sweep and not package' $(IN_PROCESSES)

test-package: $(STAMP) ## The wheel built and used in an empty folder, and the steps of the workflow in docs/
	$(RUN) -m pytest -m package $(IN_PROCESSES)

sweep: $(STAMP) ## Tests of whole catalogues: each known defect located and named, 400 damaged inputs, branches of native
	$(RUN) -m pytest -m 'sweep and not gpu' $(IN_PROCESSES)

test-all: $(STAMP) ## These three in one call, as CI runs them: imported once, and no core waits for the last file of each
	$(RUN) -m pytest -m 'not gpu and not browser' $(IN_PROCESSES)

# Engines bring dependencies of their own, and the version whose files docs/engines.md names: without them, as they are.
$(ENGINES)/sglang/.ready: runners/sglang/requirements.txt
	$(PYTHON) -m venv $(ENGINES)/sglang
	$(ENGINES)/sglang/bin/python -m pip install --quiet --requirement runners/sglang/requirements.txt
	$(ENGINES)/sglang/bin/python -m pip install --quiet --no-deps sglang==0.5.23
	touch $@

$(ENGINES)/comfyui/.ready: runners/comfyui/requirements.txt
	$(PYTHON) -m venv $(ENGINES)/comfyui
	$(ENGINES)/comfyui/bin/python -m pip install --quiet --requirement runners/comfyui/requirements.txt
	touch $@

ENGINES_HERE = PARITY_SGLANG_PYTHON=$(abspath $(ENGINES)/sglang/bin/python) \
  PARITY_COMFYUI_PYTHON=$(abspath $(ENGINES)/comfyui/bin/python) PARITY_COMFYUI_ROOT=$(abspath $(COMFYUI_ROOT))

comfyui-root:
	@test -f "$(COMFYUI_ROOT)/comfyui_version.py" || { echo "COMFYUI_ROOT=DIR names a checkout of ComfyUI; docs/engines.md says which"; exit 2; }

test-engines: comfyui-root $(STAMP) $(ENGINES)/sglang/.ready $(ENGINES)/comfyui/.ready $(WEIGHTS)/ltx-2.3.safetensors ## Build the engines' environments from the package index, test their runners there, and print all engines in one table
	$(ENGINES_HERE) $(RUN) -m pytest tests/runners/sglang tests/runners/comfyui
	$(ENGINES_HERE) $(RUN) bench/engines.py --weights $(WEIGHTS) --save build/engines.json
	$(RUN) -m bench.table build/engines.json

test-browser: $(STAMP) ## The report page in a real headless browser (needs Chromium)
	$(RUN) -m pytest -m browser

test-gpu: $(STAMP) ## The tests that need a GPU
	$(RUN) -m pytest -m gpu

check: $(STAMP) ## Style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# Two hours on one core. With MINUTES the samples are kept, and the same call goes on where it was.
IN_PIECES = $(if $(MINUTES),--limits-only --minutes $(MINUTES) --samples build/samples)
WHY = $(if $(REASON),--reason "$(REASON)")

thresholds: $(WEIGHTS)/ltx-2.3.safetensors ## Measure floors and defects now, and derive limits and speed baselines (REASON=..., MINUTES=...)
	$(PARITY) calibrate --weights $(WEIGHTS) $(IN_PIECES) $(WHY)
	$(PARITY) calibrate --weights $(WEIGHTS) $(patsubst %,--case %,$(RELEASE_CASES) $(STAGED_RELEASE_CASES)) --threads 1 $(or $(IN_PIECES),--limits-only) $(WHY)

thresholds-quick: $(STAMP) ## Derive limits again from the samples kept beside them, in seconds; nothing is run (REASON=...)
	$(PARITY) calibrate --from-samples $(WHY)

coverage: $(WEIGHTS)/ltx-2.3.safetensors ## Measure what the tiny cases see, and write docs/coverage.md
	$(RUN) bench/case_coverage.py --weights $(WEIGHTS) > build/coverage.md
	mv build/coverage.md docs/coverage.md

mutate: $(WEIGHTS)/ltx-2.3.safetensors ## Put every known defect into the native model and count which are caught
	$(PARITY) mutate --weights $(WEIGHTS) --out docs/measurements/mutation_tiny.json

hostile: $(STAMP) ## Try 3,000 damaged inputs on every verb that reads one, and print what came of them (SEED=...)
	PARITY_HOSTILE_VARIANTS=3000 PARITY_HOSTILE_SEED=$(SEED) $(RUN) -m pytest tests/hostile --benchmark-disable -o timeout=3600

bench: $(STAMP) ## Measure the comparisons' own speed and memory, beside budgets
	$(RUN) -m pytest bench --benchmark-only --benchmark-columns=median,iqr,rounds

clean: ## Remove what was built, not .venv
	rm -rf build .mypy_cache .ruff_cache .pytest_cache
