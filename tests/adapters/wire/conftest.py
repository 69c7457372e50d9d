"""What the tests of the wire share."""

from __future__ import annotations

import pytest

from tests.adapters.hostile import TokenWatch


@pytest.fixture
def watch(caplog: pytest.LogCaptureFixture) -> TokenWatch:
    return TokenWatch(caplog)
