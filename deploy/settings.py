"""The one settings object, read once from the environment."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from os import environ
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit, urlunsplit

Device = Literal["auto", "cpu", "cuda"]
LogLevel = Literal["debug", "info", "warning", "error"]
# Stands for a place in `home`, which is known once `home` is.
_IN_HOME = "in HEADRACE_HOME"


class SettingsError(ValueError):
    """A variable of the environment holds what cannot be used."""

    def __init__(self, variable: str, value: str, expected: str) -> None:
        super().__init__(f"{variable}: {expected} was expected; the value is {masked(value)!r}. Correct the variable or unset it")
        self.variable = variable


@dataclass(frozen=True)
class Settings:
    """Each field is read from the variable of its name: `gateway_port` from HEADRACE_GATEWAY_PORT.

    `kafka` is one or more host:port, `redis` a URL. `data` holds files to replay, `home` what Headrace itself writes;
    `archive`, for row versions, is a folder in `home` unless told; likewise `signing_key`, the file of the learner's private key,
    `trusted_keys`, the folder of public keys, and `weight_store`, a folder or s3://bucket/prefix for snapshots of weights.
    `metrics_port` 0 means any free port. `instance` names this process among its like and stays over restarts: a part that
    was killed then takes up its partitions at once, not when its session has run out. No two may have the same.
    `trace_sample` is the share of published events that are followed by traces. The alert bridge posts to the Alertmanager at
    `alertmanager_url`, and to the Slack-style webhook whose URL, a secret, is in the file `slack_webhook_file`. `trial_share` of the
    shoppers are answered by the newest version, the others by the stable one; whoever presents what is in `admin_token_file` may
    roll back over HTTP. `trusted_set` is a file or folder of histories that each candidate of the model is tried on; without it the
    first events of the stream serve for that. What the learner watches is in the file `watches`, the shipped one unless told; with
    `drift_only_tell` it tells of drift and does nothing, and `retrain_command` is what it runs where a watch asks for retraining.
    """

    kafka: str = "127.0.0.1:9092"
    redis: str = "redis://127.0.0.1:6379/0"
    data: Path = Path("../shared/data")
    home: Path = Path(".headrace")
    archive: Path = Path(_IN_HOME)
    gateway_host: str = "127.0.0.1"
    gateway_port: int = 8000
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0
    device: Device = "auto"
    log_level: LogLevel = "info"
    instance: str = ""
    signing_key: Path = Path(_IN_HOME)
    trusted_keys: Path = Path(_IN_HOME)
    weight_store: str = _IN_HOME
    trace_sample: float = 0.0
    alertmanager_url: str = ""
    slack_webhook_file: str = ""
    trial_share: float = 0.9
    admin_token_file: str = ""
    trusted_set: str = ""
    watches: str = ""
    drift_only_tell: bool = False
    retrain_command: str = ""

    def __post_init__(self) -> None:
        places = {"archive": "archive", "signing_key": "keys/signing.pem", "trusted_keys": "keys/trusted", "weight_store": "weights"}
        for name, place in places.items():
            given = getattr(self, name)
            if str(given) == _IN_HOME:
                object.__setattr__(self, name, type(given)(self.home / place))

    @classmethod
    def load(cls, variables: Mapping[str, str] = environ) -> "Settings":
        """Return the settings; a variable that is not set, or empty, leaves the default. Raises SettingsError."""
        given: dict[str, Any] = {}
        for field in fields(cls):
            variable = variable_of(field.name)
            if value := variables.get(variable, "").strip():
                given[field.name] = _READ[field.name](variable, value)
        return cls(**given)

    def shown(self) -> dict[str, str | int]:
        """Return variable names and values as they may be printed: passwords in URLs are masked."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {variable_of(name): value if isinstance(value, int) else masked(str(value)) for name, value in values}


def variable_of(field: str) -> str:
    """Return the environment variable that a field is read from."""
    return f"HEADRACE_{field.upper()}"


def masked(url: str) -> str:
    """Return the text with the password of a URL replaced by stars."""
    if "://" not in url or "@" not in url:
        return url
    parts = urlsplit(url)
    credentials, _, place = parts.netloc.rpartition("@")
    user, colon, _ = credentials.partition(":")
    return urlunsplit(parts._replace(netloc=f"{user}:***@{place}" if colon else f"{user}@{place}"))


def _addresses(variable: str, value: str) -> str:
    for address in value.split(","):
        match = re.fullmatch(r"\s*(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):(\d{1,5})\s*", address)
        if match is None or not 0 < int(match[1]) < 65536:
            raise SettingsError(variable, value, "host:port, or several with commas between them,")
    return value


def _redis_url(variable: str, value: str) -> str:
    try:
        parts = urlsplit(value)
        usable = (parts.scheme in ("redis", "rediss") and parts.hostname and parts.port != 0) or (parts.scheme == "unix" and parts.path)
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(variable, value, "a URL such as redis://127.0.0.1:6379/0")
    return value


def _port(variable: str, value: str) -> int:
    if not re.fullmatch(r"\d{1,5}", value) or int(value) > 65535:
        raise SettingsError(variable, value, "a port from 0 to 65535")
    return int(value)


def _host(variable: str, value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", value) or re.fullmatch(r"[\d.]+", value):
            raise SettingsError(variable, value, "a host name or an IP address") from None
    return value


def _folder(variable: str, value: str) -> Path:
    path = Path(value).expanduser()
    if path.exists() and not path.is_dir():
        raise SettingsError(variable, value, "a folder")
    return path


def _file(variable: str, value: str) -> Path:
    path = Path(value).expanduser()
    if path.is_dir():
        raise SettingsError(variable, value, "a file")
    return path


def _present_file(variable: str, value: str) -> Path:
    path = Path(value).expanduser()
    if not path.is_file():
        raise SettingsError(variable, value, "a file that is there")
    return path


def _yes_or_no(variable: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise SettingsError(variable, value, "true or false")
    return value.lower() == "true"


def _folder_or_bucket(variable: str, value: str) -> str:
    if "://" not in value:
        return str(_folder(variable, value))
    parts = urlsplit(value)
    if parts.scheme != "s3" or not parts.hostname:
        raise SettingsError(variable, value, "a folder, or a URL such as s3://bucket/prefix,")
    return value


def _file_or_folder(variable: str, value: str) -> str:
    path = Path(value).expanduser()
    if not path.exists():
        raise SettingsError(variable, value, "a file or folder that exists")
    return str(path)


def _http_url(variable: str, value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(variable, value, "a URL such as http://127.0.0.1:9093")
    return value


def _share(variable: str, value: str) -> float:
    if not re.fullmatch(r"0|1|[01]?\.\d+", value) or float(value) > 1:
        raise SettingsError(variable, value, "a share from 0 to 1")
    return float(value)


def _device(variable: str, value: str) -> Device:
    if value not in ("auto", "cpu", "cuda"):
        raise SettingsError(variable, value, "auto, cpu or cuda")
    return cast(Device, value)


def _log_level(variable: str, value: str) -> LogLevel:
    level = value.lower()
    if level not in ("debug", "info", "warning", "error"):
        raise SettingsError(variable, value, "debug, info, warning or error")
    return cast(LogLevel, level)


def _instance(variable: str, value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", value):
        raise SettingsError(variable, value, "a name of letters, digits, dots, dashes and underscores")
    return value


_READ: dict[str, Callable[[str, str], Any]] = {
    "kafka": _addresses,
    "redis": _redis_url,
    "data": _folder,
    "home": _folder,
    "archive": _folder,
    "gateway_host": _host,
    "gateway_port": _port,
    "metrics_host": _host,
    "metrics_port": _port,
    "device": _device,
    "log_level": _log_level,
    "instance": _instance,
    "trace_sample": _share,
    "alertmanager_url": _http_url,
    "watches": lambda variable, value: str(_present_file(variable, value)),
    "drift_only_tell": _yes_or_no,
    "retrain_command": lambda variable, value: value,
    "slack_webhook_file": lambda variable, value: str(_file(variable, value)),
    "trial_share": _share,
    "admin_token_file": lambda variable, value: str(_file(variable, value)),
    "trusted_set": _file_or_folder,
    "signing_key": _file,
    "trusted_keys": _folder,
    "weight_store": _folder_or_bucket,
}
