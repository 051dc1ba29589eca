"""What may not stand together, on the values of a section; and that the check itself needs no library."""

import ast
import inspect

import pytest

from gaussemble.fit import consistency
from gaussemble.fit.consistency import model_keys, problems, resolutions
from gaussemble.fit.heterogeneity import Options

ARM = {"name": "arm", "kind": "rigid", "domains": [{"selection": "A"}]}
REST = {"name": "rest"}

RIGHT = [
    {},
    {"decoder": "rigid", "amplitude": False, "domains": [{"mask": "a.mrc"}]},
    {"decoders": [ARM, REST]},
    {"decoders": [ARM, REST], "amplitude": False},
    {"decoders": [ARM], "position": False},  # a rigid decoder moves whatever the others may
    {
        "decoders": [ARM, REST],
        "rounds": [{"decoders": ["arm"], "epochs": 1}, {"decoders": ["rest", "arm"], "epochs": 2}],
    },
    {"rounds": [{"epochs": 1}, {"decoders": ["main"], "epochs": 0.5}]},
    {"resolution": 8, "decoders": [REST | {"resolution": 15}], "rounds": [{"epochs": 1, "resolution": 8}]},
    {"lowest_resolution": 100, "resolution": 8},
]
WRONG = [
    ("decoders.1.name", {"decoders": [ARM, ARM]}),
    ("decoders.0.domains", {"decoders": [ARM | {"domains": []}]}),
    ("decoders.0.domains.0", {"decoders": [ARM | {"domains": [{"mask": "a.mrc", "selection": "A"}]}]}),
    ("decoders.0.width", {"decoders": [ARM | {"width": True}]}),
    ("decoders.0.position", {"decoders": [ARM | {"position": False}]}),
    ("decoders.0.selection", {"decoders": [ARM | {"selection": "A"}]}),
    ("decoders.0.selection", {"decoders": [REST | {"selection": "A", "region": "a.mrc"}]}),
    ("decoders.0.domains", {"decoders": [REST | {"domains": [{"selection": "A"}]}]}),
    ("decoders.0.position", {"decoders": [REST], "position": False, "amplitude": False}),
    ("domains", {"domains": [{"selection": "A"}]}),
    ("domains", {"decoder": "rigid", "amplitude": False}),
    ("amplitude", {"decoder": "rigid", "domains": [{"selection": "A"}]}),
    ("position", {"position": False, "amplitude": False}),
    ("rounds.0.decoders", {"rounds": [{"decoders": ["arm"], "epochs": 1}, {"epochs": 1}]}),
    ("rounds.0.decoders", {"rounds": [{"decoders": [], "epochs": 1}, {"epochs": 1}]}),
    ("rounds.1.decoders", {"decoders": [ARM, REST], "rounds": [{"epochs": 1}, {"decoders": ["arm"], "epochs": 1}]}),
    ("decoders.0.resolution", {"resolution": 8, "decoders": [REST | {"resolution": 7}]}),
    ("rounds.0.resolution", {"resolution": 8, "rounds": [{"epochs": 1, "resolution": 7}]}),
    ("lowest_resolution", {"lowest_resolution": 10, "rounds": [{"epochs": 1, "resolution": 12}]}),
]


@pytest.mark.parametrize("values", RIGHT, ids=str)
def test_what_fits_together_passes(values):
    assert list(problems(Options(**values).model_dump())) == []


@pytest.mark.parametrize(("key", "values"), WRONG, ids=str)
def test_what_does_not_is_named_by_its_key(key, values):
    found = list(problems(Options(**values).model_dump()))
    assert [each for each, _ in found] == [key]
    assert "\n" not in found[0][1]


def test_resolutions_and_atoms_are_found_in_every_list():
    values = Options(
        resolution=8,
        selection="B",
        decoders=[ARM | {"resolution": 12}, REST | {"restraint": 1.0, "selection": "A"}],
        rounds=[{"epochs": 1}, {"epochs": 1, "resolution": 9}],
    ).model_dump()
    assert resolutions(values) == [("resolution", 8), ("decoders.0.resolution", 12), ("rounds.1.resolution", 9)]
    assert model_keys(values) == {
        "selection": ["selection", "decoders.0.domains.0.selection", "decoders.1.selection"],
        "restraint": ["decoders.1.restraint"],
    }


def test_the_check_imports_nothing():
    """The workflow reads it before any environment is there."""
    tree = ast.parse(inspect.getsource(consistency))
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
