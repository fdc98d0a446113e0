"""A pair of keys, as the parts have it that sign records and those that read them."""

from pathlib import Path

import pytest

from headrace.streams.signing import SigningKey, TrustedKeys


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey.create(tmp_path)


@pytest.fixture
def trusted(key: SigningKey, tmp_path: Path) -> TrustedKeys:
    return TrustedKeys(tmp_path / "trusted")
