"""`headrace keys`: a pair is created once, listed, and revoked, in one process each."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headrace.deploy.keys_command import keys_app
from headrace.streams.signing import KeyProblem


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    return tmp_path


def keys(*arguments: str) -> str:
    result = CliRunner().invoke(keys_app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_a_pair_is_created_listed_rotated_and_revoked(home: Path) -> None:
    assert "headrace keys create" in keys("list")
    first = keys("create").split()[1]
    assert (home / "keys/signing.pem").stat().st_mode & 0o777 == 0o600
    assert (home / f"keys/trusted/{first}.pem").exists()
    assert keys("create", "--if-missing").split()[1] == first
    with pytest.raises(KeyProblem, match="is there already"):
        keys("create")
    second = keys("create", "--key", str(home / "keys/next.pem")).split()[1]
    keys("revoke", first)
    listed = keys("list", "--json", str(home / "keys.json"))
    assert f"{first} revoked  signs here" in listed
    assert f"{second} trusted\n" in listed
    rows = json.loads((home / "keys.json").read_text())
    assert {row["key_id"]: (row["revoked"], row["signs_here"]) for row in rows} == {first: (True, True), second: (False, False)}
