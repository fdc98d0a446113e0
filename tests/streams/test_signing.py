"""Only what a trusted key has signed is believed."""

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.streams.signing import Fault, Forged, KeyProblem, SigningKey, TrustedKeys, ensure_keys

VALUE = b'{"model":"next-item"}'


def fault_of(trusted: TrustedKeys, key_id: str | None, value: bytes, signature: bytes | str | None) -> Fault:
    with pytest.raises(Forged) as caught:
        trusted.verify(key_id, value, signature)
    return caught.value.fault


def test_what_a_trusted_key_has_signed_is_believed(key: SigningKey, trusted: TrustedKeys) -> None:
    trusted.verify(key.key_id, VALUE, key.sign(VALUE))
    trusted.verify(key.key_id, VALUE, key.sign(VALUE).decode())
    assert trusted.key_ids() == {key.key_id: False}
    assert len(key.key_id) == 16


def test_each_way_of_not_being_signed_has_a_name(key: SigningKey, trusted: TrustedKeys, tmp_path: Path) -> None:
    other = SigningKey.create(tmp_path / "other")
    signature = key.sign(VALUE)
    assert fault_of(trusted, None, VALUE, signature) == "unsigned"
    assert fault_of(trusted, key.key_id, VALUE, None) == "unsigned"
    assert fault_of(trusted, key.key_id, VALUE + b" ", signature) == "bad signature"
    assert fault_of(trusted, key.key_id, VALUE, other.sign(VALUE)) == "bad signature"
    assert fault_of(trusted, key.key_id, VALUE, "no base64!") == "bad signature"
    assert fault_of(trusted, other.key_id, VALUE, other.sign(VALUE)) == "unknown key"
    assert fault_of(TrustedKeys(tmp_path / "nowhere"), key.key_id, VALUE, signature) == "unknown key"


@given(bit=st.integers(0, 511))
@settings(max_examples=60, deadline=None)
def test_a_signature_with_any_bit_flipped_is_none(tmp_path_factory: pytest.TempPathFactory, bit: int) -> None:
    folder = tmp_path_factory.mktemp("keys")
    key = SigningKey.create(folder)
    spoilt = bytearray(base64.b64decode(key.sign(VALUE)))
    spoilt[bit // 8] ^= 1 << bit % 8
    assert fault_of(TrustedKeys(folder / "trusted"), key.key_id, VALUE, base64.b64encode(spoilt)) == "bad signature"


def test_a_signature_has_one_spelling(key: SigningKey, trusted: TrustedKeys) -> None:
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    signature = key.sign(VALUE).decode()
    other = digits[digits.index(signature[85]) ^ 1]
    spelt = f"{signature[:85]}{other}=="
    assert base64.b64decode(spelt) == base64.b64decode(signature)
    assert fault_of(trusted, key.key_id, VALUE, spelt) == "bad signature"
    assert fault_of(trusted, key.key_id, VALUE, signature + "\n") == "bad signature"


def test_a_new_key_is_trusted_beside_the_old_one_and_the_old_one_is_revoked_while_all_goes_on(
    key: SigningKey, trusted: TrustedKeys, tmp_path: Path
) -> None:
    new = SigningKey.create_at(tmp_path / "new.pem", trusted.folder)
    for signer in (key, new):
        trusted.verify(signer.key_id, VALUE, signer.sign(VALUE))
    trusted.revoke(key.key_id)
    assert fault_of(trusted, key.key_id, VALUE, key.sign(VALUE)) == "revoked"
    trusted.verify(new.key_id, VALUE, new.sign(VALUE))
    assert trusted.key_ids() == {key.key_id: True, new.key_id: False}
    with pytest.raises(KeyProblem, match="headrace keys list"):
        trusted.revoke("0" * 16)


def test_a_private_key_is_readable_by_its_owner_alone_and_refused_otherwise(key: SigningKey, tmp_path: Path) -> None:
    path = tmp_path / "signing.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(path).key_id == key.key_id
    path.chmod(0o640)
    with pytest.raises(KeyProblem, match="chmod 600"):
        SigningKey.load(path)


def test_a_key_is_never_written_over(key: SigningKey, trusted: TrustedKeys, tmp_path: Path) -> None:
    with pytest.raises(KeyProblem, match="is there already"):
        SigningKey.create(tmp_path)
    assert trusted.key_ids() == {key.key_id: False}
    ensure_keys(tmp_path / "signing.pem", trusted.folder)
    assert SigningKey.load(tmp_path / "signing.pem").key_id == key.key_id


def test_files_that_hold_no_such_key_are_told_of(key: SigningKey, trusted: TrustedKeys, tmp_path: Path) -> None:
    with pytest.raises(KeyProblem, match="headrace keys create"):
        SigningKey.load(tmp_path / "missing.pem")
    wrong = tmp_path / "wrong.pem"
    wrong.touch(0o600)
    wrong.write_bytes(b"no key")
    with pytest.raises(KeyProblem, match="a PEM file with an ed25519 private key"):
        SigningKey.load(wrong)
    wrong.write_bytes(X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(KeyProblem, match="an ed25519 key was expected"):
        SigningKey.load(wrong)
    (trusted.folder / "0123456789abcdef.pem").write_bytes((trusted.folder / f"{key.key_id}.pem").read_bytes())
    (trusted.folder / "torn.pem").write_bytes(b"-----BEGIN")
    assert trusted.key_ids() == {key.key_id: False}
