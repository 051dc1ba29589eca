"""The stages understand what the scale benchmark calls them with."""

from pathlib import Path

import pytest

from bench.scale import BOUNDS, commands
from gaussemble.__main__ import arguments_of, stage_function, stage_parser

CALLS = commands(Path("made"), particles=1000, epochs=1)


def test_stages_stand_in_the_workflows_order():
    assert list(CALLS) == list(BOUNDS) == [
        "simulate", "particles", "consensus", "seeds", "neutral", "heterogeneity", "latent",
    ]  # fmt: skip


@pytest.mark.parametrize("stage", CALLS)
def test_stage_takes_its_flags(stage):
    function = stage_function(stage)
    parsed = stage_parser(stage, function).parse_args([str(each) for each in CALLS[stage]])
    assert arguments_of(function, parsed)["out"] == Path("made") / stage
