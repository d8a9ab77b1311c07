"""What the tests of an installation share.

The one rule: what fetches a release of pip trusts the authorities of the machine, unlike all other tests.
"""

import pytest


@pytest.fixture(autouse=True)
def no_authority() -> None:
    """In the place of the fixture that takes them away (tests/conftest.py)."""
