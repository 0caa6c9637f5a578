"""What the tests of deploy/ share."""

from uuid import uuid4

import pytest


@pytest.fixture
def directory() -> str:
    """A work directory of this test alone."""
    return f"/test/{uuid4().hex}"
