"""The Feast repository in use: its registry is written and its store opened with Headrace's own settings.

Importing Feast takes ten seconds, so it happens inside the functions; some of its parts warn of each other's age, which
nobody here can act on.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml


class UnsuitableRedis(ValueError):
    """A Redis URL that Feast has no words for; the text says why and what to use."""


def apply(registry: Path, redis_url: str, archive: Path | None = None) -> list[str]:
    """Write the entities, feature views and feature services of `features/definitions.py` into the registry file.

    `archive` is the folder of the row versions, of which history is made; where not given, the folder `archive` beside that of
    the registry. Returns the names of what was written. It may be done again at any time. Raises UnsuitableRedis.
    """
    folder = (archive or registry.resolve().parent.parent / "archive").resolve()
    store = open_store(registry, redis_url)
    with _quiet():
        from headrace.features import definitions as of

        parts: list[Any] = list(of.ALL)
        for view in parts:
            if getattr(view, "batch_source", None) is not None:
                view.batch_source.file_options.uri = str(folder / view.name)
        store.apply(parts)
    return [part.name for part in parts]


def open_store(registry: Path, redis_url: str) -> Any:
    """Return the `feast.FeatureStore` of this registry file and Redis. Raises UnsuitableRedis."""
    connection = connection_string(redis_url)
    registry.parent.mkdir(parents=True, exist_ok=True)
    with _quiet():
        from feast import FeatureStore, RepoConfig

        settings = yaml.safe_load(repository_file().read_text(encoding="utf-8"))
        # Set here and not in the text of the file, where a password could end the line.
        settings["registry"] = str(registry.resolve())
        settings["online_store"]["connection_string"] = connection
        return FeatureStore(config=RepoConfig(**settings, repo_path=registry.resolve().parent))


def repository_file() -> Path:
    """Return the path of the repository's `feature_store.yaml`."""
    from headrace import features

    return Path(features.__path__[0]) / "feature_store.yaml"


def connection_string(redis_url: str) -> str:
    """Return a redis:// or rediss:// URL as Feast writes it: 'host:port,db=0,password="..."'. Raises UnsuitableRedis."""
    parts = urlsplit(redis_url)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.scheme == "unix":
        raise UnsuitableRedis(f"Feast cannot reach Redis by a unix socket ({shown}); let it listen on 127.0.0.1 too, and give that address")
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise UnsuitableRedis(f"a URL such as redis://127.0.0.1:6379/0 was expected; the value is {shown!r}")
    if ":" in parts.hostname:
        raise UnsuitableRedis(f"Feast cannot read the IPv6 address of {shown}; give a host name")
    if parts.query:
        raise UnsuitableRedis(f"Feast knows no options in a Redis URL; leave out {'?' + parts.query!r}")
    database = parts.path.strip("/") or "0"
    if not database.isdecimal():
        raise UnsuitableRedis(f"the number of a database was expected after the last slash; the value is {shown!r}")
    words = [f"{parts.hostname}:{parts.port or 6379}", f"db={database}"]
    words += [f"{name}={_quoted(value)}" for name, value in (("username", parts.username), ("password", parts.password)) if value]
    return ",".join([*words, "ssl=true"] if parts.scheme == "rediss" else words)


def _quoted(value: str) -> str:
    # Feast splits at commas first, then reads JSON: quotes keep a password of digits a text, the escape keeps its commas.
    return json.dumps(unquote(value)).replace(",", "\\u002c")


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
