# As root on Debian 12, in a new clone: `make demo` shows the whole story, `make test` runs the default suite.
PYTHON = .venv/bin/python

.PHONY: setup demo test lint bench fuzz acceptance slurm-trees wheel deb docs reference clean

setup:
	@tools/setup.sh

demo: setup
	@$(PYTHON) -m hipercow_slurm sandbox demo

# Three at a time: most of it waits for tickets to expire and services to be given up (two CPUs: 27 % busy with two).
test: setup lint
	tools/as-anyone.sh $(PYTHON) -m pytest -n 3 --dist loadgroup

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: setup
	$(PYTHON) -m hipercow_slurm.testing.bench $(ARGS)

# By hand: see tests/fuzz/README.md.
fuzz: setup
	$(PYTHON) -m pip install -q --disable-pip-version-check --require-hashes --no-deps -r tests/fuzz/requirements.txt
	$(PYTHON) tests/fuzz/run.py $(TARGET) -max_total_time=$(or $(FUZZ_S),300) -max_len=4096 -timeout=10

# Three at a time, because most of it waits for tickets to end; tests/acceptance/conftest.py says what comes first.
acceptance: slurm-trees
	@tools/setup.sh packaging
	tools/as-anyone.sh $(PYTHON) -m pytest -m "" -v -n $(or $(WORKERS),3) --dist loadgroup --no-loadscope-reorder \
		--durations=40 --durations-min=5 tests/acceptance

# Slurm 24.11 and 26.05, out of Debian 13 and sid; kept outside the clone (see docs/reference/slurm-versions.md).
slurm-trees:
	@tools/setup.sh acceptance
	@$(PYTHON) -m hipercow_slurm.testing.slurm_tree

clean:
	rm -rf build dist .venv
	$(MAKE) -s -C spank clean

# Pure Python for laptops, and with the compiled binding for this platform: pip takes the one that fits.
wheel: setup
	@tools/build-wheels.sh

deb: setup
	@tools/setup.sh packaging
	@tools/build-deb.sh

# The pages of docs/reference that are made from the code; `make test` fails where they are not up to date.
reference: setup
	@$(PYTHON) tools/reference

docs: setup
	@$(PYTHON) tools/reference --check
	@tools/build-docs.sh
