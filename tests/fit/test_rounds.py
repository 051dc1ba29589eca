"""Rounds from the config's sections, and the usual two without."""

import pytest

from gaussemble.fit.rounds import Round, default_rounds, given_rounds
from gaussemble.fit.sections import DecoderOptions, RoundOptions

COARSE = DecoderOptions(name="coarse", resolution=15.0)
FINE = DecoderOptions(name="fine")


def test_the_usual_rounds_are_a_share_at_half_the_resolution_and_the_rest():
    assert default_rounds(15, 0.4, [FINE], 8.0) == [Round(None, 6.0, 16.0), Round(None, 9.0, None)]
    assert default_rounds(7, 0.4, [FINE], 8.0) == [Round(None, 2.0, 16.0), Round(None, 5.0, None)]
    assert default_rounds(3, 0.0, [FINE], 8.0) == [Round(None, 3.0, None)]
    assert default_rounds(3, 1.0, [FINE], 8.0) == [Round(None, 3.0, 16.0)]


def test_decoders_that_all_stop_early_set_the_resolution():
    assert default_rounds(2, 0.5, [COARSE], 8.0) == [Round(None, 1.0, 30.0), Round(None, 1.0, 15.0)]
    assert default_rounds(2, 0.5, [COARSE, FINE], 8.0)[1].resolution is None


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"decoders": ("coarse",)}, Round(("coarse",), 2.0, 15.0)),
        ({"decoders": ("coarse", "fine")}, Round(("coarse", "fine"), 2.0, None)),
        ({"decoders": ("coarse",), "resolution": 20.0}, Round(("coarse",), 2.0, 20.0)),
        ({"resolution": 8.0}, Round(None, 2.0, None)),
        ({"learning_rate": 1e-4, "transition": "trainable"}, Round(None, 2.0, None, 1e-4, "trainable")),
    ],
)
def test_a_given_round_keeps_what_it_says(section, expected):
    assert given_rounds([RoundOptions(epochs=2.0, **section)], [COARSE, FINE], 8.0) == [expected]
