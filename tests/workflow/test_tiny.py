"""The whole workflow on a tiny simulated data set, from a folder that is not the checkout, held to the known truth."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import starfile

from gaussemble.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ["full", "even", "odd"]
COMMAND = [
    sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"),
    "--cores", "2", "--configfile", str(ROOT / "tests/workflow/tiny.yaml"),
]  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The working directory of a run that went to its end."""
    folder = tmp_path_factory.mktemp("away from the checkout")
    done = subprocess.run(COMMAND, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


@pytest.fixture
def results(run) -> Path:
    """The data set's results."""
    return run / "results/tiny"


def test_even_and_odd_are_the_whole_and_share_no_particle(results):
    names = {
        split: starfile.read(results / split / "particles/particles.star")["particles"]["rlnImageName"]
        for split in SPLITS
    }
    assert set(names["even"]).isdisjoint(names["odd"])
    assert set(names["even"]) | set(names["odd"]) == set(names["full"])
    assert len(names["full"]) == 900
    rows = {split: set(pd.read_csv(results / split / "domains/latent/clusters.csv")["particle"]) for split in SPLITS}
    assert rows["even"] == {row for row in rows["full"] if row % 2 == 0}
    assert rows["odd"] == rows["full"] - rows["even"]


def test_truth_is_found(results):
    scores = json.loads((results / "truth/domains.json").read_text())
    assert scores["oracle"]["swing_r2"] > 0.95, "the particles are bright enough for the test to mean something"
    assert scores["analysis"]["swing_r2"] > 0.9, "0.97 when written; the oracle reached 0.98"
    assert scores["analysis"]["occupancy_linear_probe"] > 0.95, "1.00 when written"
    assert all(match["same_states"] for match in scores["matches"])


def test_both_halves_find_the_same_classes(results):
    verdict = json.loads((results / "agreement/domains/verdict.json").read_text())
    assert [cluster["verdict"] for cluster in verdict["clusters"]] == ["reproduced", "reproduced"]


def test_report_has_every_figure_and_no_other_file(results):
    page = (results / "report.html").read_text()
    drawn = sorted(path.stem for path in (results / "figures/domains").glob("*.png"))
    assert len(drawn) >= 15
    assert page.count("<img") + page.count("<svg") >= len(drawn)
    assert 'src="http' not in page
    assert 'href="http' not in page.split("<body", 1)[0]
    for name in drawn:
        assert (results / f"figures/domains/{name}.svg").stat().st_size > 0
        assert len(pd.read_csv(results / f"figures/domains/{name}.csv")) > 0


def test_every_job_left_a_log_and_a_benchmark(results):
    for folder in (results, results / "null1"):
        benchmarks, logs = (
            {path.relative_to(folder / kind).with_suffix("") for path in (folder / kind).rglob(pattern)}
            for kind, pattern in (("benchmarks", "*.tsv"), ("logs", "*.txt"))
        )
        assert logs == benchmarks
        assert Path("odd/domains/heterogeneity") in logs


def test_summary_says_what_was_found_and_where_the_report_is(results, capsys):
    assert main(["summary", str(results), "--times"]) == 0
    text = capsys.readouterr().out
    assert "even/domains/heterogeneity" in text
    assert "domains: 2 of 2 classes" in text
    assert "swing found with R² 0.9" in text
    assert text.endswith(f"report: {results / 'report.html'}\n")


def test_nothing_is_left_to_do(run):
    done = subprocess.run([*COMMAND, "--dry-run"], cwd=run, capture_output=True, text=True)
    assert "Nothing to be done" in done.stdout + done.stderr, done.stdout[-3000:]
