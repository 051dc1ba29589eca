"""Modules import downwards only, as the package's layers stand."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "workflow" / "gaussemble"
LAYERS = [
    {"__init__", "costs", "errors", "options", "progress", "quantities", "sizes"},
    {"io"},
    {"physics"},
    {"prepare"},
    {"model"},
    {"fit"},
    {"analysis"},
    {"report"},
    {"config", "provenance", "__main__"},
]
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def layer(name: str) -> int:
    """The height of a module or folder directly below the package."""
    return next(height for height, names in enumerate(LAYERS) if name in names)


def imported(path: Path) -> set[str]:
    """What a file imports of the package, at the package's top level; a relative import counts as a fault."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            names = [node.module or ""]
            names = [f"gaussemble.{alias.name}" for alias in node.names] if names == ["gaussemble"] else names
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found.update(name.split(".")[1] for name in names if name.startswith("gaussemble."))
    return {name for name in found if name != "__version__"}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_imports_only_from_its_own_layer_and_those_below(module):
    own = layer(module.parts[0].removesuffix(".py"))
    above = sorted(name for name in imported(PACKAGE / module) if layer(name) > own)
    assert not above, f"{module} imports {', '.join(above)}, of a layer above its own"


def test_every_module_is_in_a_layer():
    top = {path.stem for path in PACKAGE.glob("*") if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert top == set().union(*LAYERS)
