# make demo    segment scans with a generated network, in a fresh environment
# make label-demo   annotate scans as a client of the label server would: how the next ones come out after every label
# make test    style check and all tests
# make benchmark        fast methods on real held-out data, to docs/results.md (needs ../shared/data)
# make benchmark-full   all methods on fewer cases
#
# Without a GPU, `make install TORCH_INDEX=https://download.pytorch.org/whl/cpu` fetches the small build of torch.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := $(shell grep '^torch==' constraints.txt)
LABEL := $(shell grep '^monailabel==' constraints.txt)
TORCH_INDEX ?=
SHARED := $(wildcard ../shared/data)

.PHONY: install test demo label-demo benchmark benchmark-full bundles clean

install: $(STAMP)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(STAMP): setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt $(TORCH)
	$(BIN)/python -m pip install -c constraints.txt -e '.[test]'
	$(BIN)/python -m pip install --no-deps $(LABEL)  # what it asks for cannot be installed together, see setup.cfg
	touch $(STAMP)

test: install
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

demo: install
	$(BIN)/monai-hyper demo $(if $(SHARED),--data $(SHARED)) --output runs/demo --overwrite

label-demo: install
	$(BIN)/python -m monai_hyper.label.demo $(if $(SHARED),--data $(SHARED)/hippocampus_mr --split select)

benchmark: install
	$(BIN)/python benchmarks/dev.py --data ../shared/data --output runs/benchmark
	$(BIN)/python benchmarks/bundle_page.py

benchmark-full: install
	$(BIN)/python -m pip install -c constraints.txt -e '.[registration]'
	$(BIN)/python benchmarks/dev.py --data ../shared/data --output runs/benchmark --full

bundles: install
	$(BIN)/python -m monai_hyper.export.bundle_weights monai_hyper/weights/hyper_ctmr.safetensors \
	    bundles/hyper_ctmr_fewshot_segmentation/models
	$(BIN)/python -m monai_hyper.export.bundle_weights monai_hyper/weights/hyper_classifier.safetensors \
	    bundles/hyper_fewshot_classification/models

clean:
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .ruff_cache bundles/*/models
