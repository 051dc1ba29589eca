"""The words follow from the numbers, in the order in which the questions are asked."""

from typing import Any

import pytest

from gaussemble.analysis.methods import summarise
from gaussemble.analysis.verdict import Null, Options, gain_text, judge, judge_motion, no_evidence, read_null

CLASS: dict[str, Any] = {
    "difference_correlation": 0.9, "difference_runner_up": 0.1, "difference_resolution_0.5": 10.0, "shared": 0.2,
    "structure": 0.8, "fraction_even": 0.5, "fraction_odd": 0.5, "fraction_error_even": 0.01,
    "fraction_error_odd": 0.01,
}  # fmt: skip
MOTION: dict[str, Any] = {
    "even": "pc1", "odd": "pc2", "cosine": 0.9, "span": 0.95, "kind": "motion", "fading": 0.1, "size": 0.2,
    "displacement": [10.0, 11.0], "ratio": 1.1, "difference": 2.5, "displacement_cosine": 0.9, "gain": 0.5,
    "gain_error": 0.02, "wholeness": 0.4, "structure": 0.9, "followed": {"cosine": 0.3},
}  # fmt: skip
NONE = Null({}, 0)
SMALL = Null({"shared": [0.05, 0.1], "motion_size": [0.1, 0.02], "motion_cosine": [0.3, 0.1]}, 2)
SAME: dict[str, Any] = {
    "cosine": 0.5,
    "followed": {"cosine": 0.85, "displacement": [9.0, 8.0], "difference": 3.1, "ratio": 0.9},
}
ALIKE = Null({"motion_cosine": [0.9]}, 1)  # small changes that are nevertheless alike
RATHER_ALIKE = Null({"motion_cosine": [0.2, 0.8], "motion_followed": [0.1, 0.75]}, 2)
LARGE = Null({"shared": [0.3], "motion_size": [0.3]}, 1)
NEAR = Null({"shared": [0.15], "motion_size": [0.15]}, 1)


@pytest.mark.parametrize(
    ("changes", "null", "word", "why"),
    [
        ({}, NONE, "reproduced", "agree to 10.0 Å"),
        ({}, SMALL, "reproduced", "sizes agree"),
        ({}, LARGE, "not reproduced", "no more than the null's"),
        ({}, NEAR, "undecided", "close to the null's"),
        ({"structure": 0.1}, SMALL, "undecided", "90% of what sets it apart is contrast"),
        ({"fraction_odd": 0.3}, SMALL, "undecided", "sizes differ"),
    ],
)
def test_of_a_class(changes, null, word, why):
    found, reason = judge(CLASS | changes, 0.1, Options(), None, null)
    assert found == word
    assert why in reason


@pytest.mark.parametrize(
    ("changes", "null", "word", "why"),
    [
        ({}, NONE, "reproduced", "differ by 2.5 Å"),
        ({}, LARGE, "not reproduced", "null"),
        ({"gain": 0.03}, NONE, "not reproduced", "no likelier"),
        ({"cosine": 0.5}, SMALL, "undecided", "mixture"),
        ({"cosine": 0.5, "span": 0.5}, SMALL, "not reproduced", "no more signal than noise"),
        ({"cosine": 0.6, "span": 0.6}, SMALL, "undecided", "below 0.7, but more signal"),
        ({"ratio": 2.6}, SMALL, "undecided", "2.6 times as long"),
        ({"ratio": None}, SMALL, "undecided", "only odd's moves"),
        ({"wholeness": 0.99}, SMALL, "undecided", "moves as a whole"),
        ({"wholeness": 0.99, "kind": "presence", "ratio": None}, SMALL, "reproduced", "present and absent"),
        ({"fading": 0.95, "kind": "presence", "ratio": None}, SMALL, "undecided", "fades as a whole"),
        ({"kind": "presence", "ratio": None}, SMALL, "reproduced", "present and absent"),
        ({"structure": 0.25}, SMALL, "undecided", "75% of what changes is contrast"),
        ({}, ALIKE, "not reproduced", "the cosine, 0.9, is no more than the null's"),
        ({}, RATHER_ALIKE, "undecided", "the cosine, 0.9, is close to the null's, 0.8"),
        ({"cosine": 0.95}, RATHER_ALIKE, "reproduced", "cosine of 0.95"),
        (SAME, SMALL, "reproduced", "between the same particles changes have a cosine of 0.85; 8.5 Å long"),
        (SAME, RATHER_ALIKE, "undecided", "the cosine, 0.85, is close to the null's, 0.75"),
        (SAME | {"gain": 0.0}, SMALL, "not reproduced", "no likelier"),
        (SAME | {"structure": 0.1}, SMALL, "undecided", "contrast"),
        ({"cosine": 0.5, "followed": {"cosine": 0.6}}, SMALL, "undecided", "a mixture"),
    ],
)
def test_of_a_motion(changes, null, word, why):
    found, reason = judge_motion(MOTION | changes, Options(), None, null)
    assert found == word
    assert why in reason


def test_nothing_is_reproduced_where_unseen_particles_are_no_likelier():
    nothing = no_evidence({"both": {"gain": -0.12, "error": 0.031, "beyond_chance": False}})
    assert nothing
    assert nothing[0] == "not reproduced" and "-0.120 ± 0.031 nats" in nothing[1]
    assert judge(CLASS, 0.1, Options(), nothing, NONE)[0] == "not reproduced"
    assert judge_motion(MOTION, Options(), nothing, NONE)[0] == "not reproduced"
    cluster = {"verdict": "not reproduced", "fractions": [0.5, 0.5], "difference_resolution": 9.0}
    text = summarise([cluster], 1, [MOTION | {"verdict": "not reproduced"}], nothing)
    assert text.startswith("None of 1 classes")
    assert "nothing is reproducible" in text
    assert no_evidence({"both": {"beyond_chance": True}}) is None


def test_without_evidence_nothing_is_decided_but_what_fails_anyway():
    missing = no_evidence(None)
    assert missing
    word, reason = judge(CLASS, 0.1, Options(), missing, NONE)
    assert word == "undecided" and "crossing was not run" in reason
    assert judge(CLASS | {"difference_correlation": 0.05}, 0.1, Options(), missing, NONE)[0] == "not reproduced"
    cluster = {"verdict": "undecided", "fractions": [0.5, 0.5], "difference_resolution": 9.0}
    text = summarise([cluster], 1, [], missing)
    assert "nothing is decided" in text and "crossing was not run" in text


def test_p_values_count_the_runs_that_reach_as_much():
    null = read_null([{"scores": dict.fromkeys(SCORE_NAMES, value)} for value in (0.1, 0.4, None, 0.2)])
    assert null.runs == 4
    assert null.values["shared"] == [0.1, 0.4, 0.2]
    assert null.largest("shared") == 0.4
    assert null.probability("shared", 0.3) == pytest.approx(2 / 4)
    assert null.probability("shared", 0.5) == pytest.approx(1 / 4)
    assert NONE.probability("shared", 0.5) is None
    assert NONE.largest("shared") == 0


SCORE_NAMES = [
    "classes_reproduced", "difference_correlation", "shared", "motions_reproduced", "motion_cosine", "motion_followed",
    "motion_size", "evidence", "canonical_correlation", "rand_index", "neighbor_overlap",
]  # fmt: skip


def test_an_error_has_two_digits():
    assert gain_text({"gain": 12.345, "error": 0.517}) == "12.35 ± 0.52"
    assert gain_text({"gain": -0.00213, "error": 0.00034}) == "-0.00213 ± 0.00034"
    assert gain_text({"gain": 140.2, "error": 12.0}) == "140 ± 12"
