"""`headrace keys ...`: the keys that sign weights and releases. Commands import what they need when they run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from headrace.deploy.settings import Settings

keys_app = typer.Typer(help="The ed25519 keys that sign weights and releases, and those that are trusted.", no_args_is_help=True)

Trusted = Annotated[
    Path | None, typer.Option("--trusted", metavar="FOLDER", help="The public keys; HEADRACE_TRUSTED_KEYS where not given.")
]


@keys_app.command("create")
def create_key(
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="Where the private key goes; HEADRACE_SIGNING_KEY where not given.")
    ] = None,
    trusted: Trusted = None,
    if_missing: Annotated[bool, typer.Option("--if-missing", help="Leave a key that is there as it is, in place of an error.")] = False,
) -> None:
    """Create a pair of keys: the private one in FILE, readable by its owner alone, the public one among the trusted.

    Give the private file to the learner and to whoever releases versions, and the folder of public keys to every part. To change keys,
    create a pair under another --key, wait until every part sees its public key, start the learner with it, then revoke the old one.
    """
    from headrace.streams.signing import SigningKey, ensure_keys

    loaded = Settings.load()
    path, folder = key or loaded.signing_key, trusted or loaded.trusted_keys
    if if_missing:
        ensure_keys(path, folder)
        created = SigningKey.load(path)
        typer.echo(f"key {created.key_id} is at {path}, and trusted in {folder}")
    else:
        created = SigningKey.create_at(path, folder)
        typer.echo(f"key {created.key_id} written to {path}, and trusted in {folder}")


@keys_app.command("list")
def list_keys(
    trusted: Trusted = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the list to this file as JSON.")] = None,
) -> None:
    """List the public keys, whether each is trusted or revoked, and which of them signs here."""
    from headrace.streams.signing import KeyProblem, SigningKey, TrustedKeys

    loaded = Settings.load()
    known = TrustedKeys(trusted or loaded.trusted_keys).key_ids()
    try:
        own = SigningKey.load(loaded.signing_key).key_id
    except KeyProblem:
        own = None
    rows = [{"key_id": key_id, "revoked": revoked, "signs_here": key_id == own} for key_id, revoked in known.items()]
    for row in rows:
        typer.echo(f"{row['key_id']} {'revoked' if row['revoked'] else 'trusted'}{'  signs here' if row['signs_here'] else ''}")
    if not rows:
        typer.echo(f"there are no keys in {trusted or loaded.trusted_keys}; create a pair with: headrace keys create")
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=2) + "\n")


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="As headrace keys list shows it.")], trusted: Trusted = None
) -> None:
    """Trust a key no longer. Parts that see the folder refuse what it has signed from their next message on."""
    from headrace.streams.signing import TrustedKeys

    folder = trusted or Settings.load().trusted_keys
    TrustedKeys(folder).revoke(key_id)
    typer.echo(f"key {key_id} is revoked in {folder}")
