"""Fixtures of the workflow's tests."""

import pytest

from dry_runs import DEMO, planned


@pytest.fixture(scope="module")
def demo_jobs(tmp_path_factory) -> list[dict[str, str]]:
    """The demo's jobs, planned in a folder that is not the checkout."""
    return planned(DEMO, tmp_path_factory.mktemp("elsewhere"))
