# make demo    the whole workflow on simulated particles; ends by saying where the report is
# make test    all tests
# make check   formatting, lint and types
# make bench   speed and memory beside baselines of the same run (STAR files, import, reconstruction, projection), then
#              the demo from scratch in .bench/, with the time and memory of every stage; BENCH="star demo" for some, or
#              for others: training, scale (a hundred thousand particles), gpu, agreement (verdicts where the truth is
#              known), motion, original, cryodrgn
# make bench-science  how much of known motions and compositions is found, beside the Bayes limit of the same particles;
#              SET="linear ring" SNR="0.1 0.01" PARTICLES=5000 WITH="epochs=20 seeds.count=512" for some, SEED=1 for
#              other particles, DOCKED=1 for a model of the molecule at rest (chain B moves),
#              MASKED=1 for a mask round what moves
# make clean   remove what the others wrote, except .venv

PYTHON ?= python3.11
CORES ?= all
BENCH ?= star importing reconstruction projection demo
BIN := .venv/bin
GAUSSEMBLE := PYTHONPATH=workflow $(BIN)/python -m gaussemble

help:
	@sed -n 's/^# //p' Makefile

.venv/installed: envs/constraints.txt envs/requirements.txt envs/run.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint envs/constraints.txt --requirement envs/requirements.txt
	touch $@

demo: .venv/installed
	$(BIN)/snakemake --cores $(CORES) --configfile config/demo.yaml
	@$(GAUSSEMBLE) summary results/demo

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile $(PYTEST)

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --lint

bench: $(BENCH:%=bench-%)

bench-%: tests/bench/%.py .venv/installed
	PYTHONPATH=workflow $(BIN)/python $<

bench-science: .venv/installed
	OMP_NUM_THREADS=1 PYTHONPATH=workflow $(BIN)/python tests/bench/science/run.py $(if $(SET),--set $(SET)) \
	  $(if $(SNR),--snr $(SNR)) $(if $(PARTICLES),--particles $(PARTICLES)) $(if $(MODEL),--model $(MODEL)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(DOCKED),--docked) $(if $(MASKED),--masked) -- $(WITH)

bench-demo: .venv/installed
	$(BIN)/snakemake --cores $(CORES) --configfile config/demo.yaml --directory .bench --forceall
	@$(GAUSSEMBLE) summary .bench/results/demo --times

clean:
	rm -rf results/demo .bench .snakemake .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# After a change of an option class, or of an installed version
generated: .venv/installed
	$(GAUSSEMBLE) schema --out config/schema.json
	$(GAUSSEMBLE) reference --out docs/config.md

constraints:
	{ sed -n '/^#/p' envs/constraints.txt; $(BIN)/python -m pip freeze --exclude pip --exclude setuptools \
	  | sed 's/^\(torch==[0-9.]*\)+.*/\1/'; } > envs/constraints.new && mv envs/constraints.new envs/constraints.txt

.PHONY: help demo test check bench bench-demo bench-science clean generated constraints
