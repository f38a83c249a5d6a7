"""The sandbox in each of its two kinds; tests are skipped, with the reason, where the kernel forbids one."""

from __future__ import annotations

import pytest

from qwartet.errors import SettingError
from qwartet.sandbox.walls import MECHANISMS, Sandbox, find_sandbox


@pytest.fixture(params=MECHANISMS, scope="module")
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    try:
        return find_sandbox((request.param,))
    except SettingError as error:
        pytest.skip(str(error))
