"""The settings: read once, wrong ones told plainly, passwords kept."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from headrace.deploy.settings import Settings, SettingsError, masked


def test_without_variables_everything_stays_on_this_machine() -> None:
    settings = Settings.load({})
    assert settings == Settings()
    assert (settings.kafka, settings.redis, settings.gateway_host, settings.metrics_host) == (
        "127.0.0.1:9092",
        "redis://127.0.0.1:6379/0",
        "127.0.0.1",
        "127.0.0.1",
    )
    assert Settings.load({"HEADRACE_KAFKA": " ", "HEADRACE_DEVICE": ""}) == Settings()


def test_each_field_is_read_from_the_variable_of_its_name() -> None:
    variables = {
        "HEADRACE_KAFKA": "a.example:9092,[::1]:9093",
        "HEADRACE_REDIS": "rediss://user:secret@r.example:6380/2",
        "HEADRACE_DATA": "/data",
        "HEADRACE_HOME": "home",
        "HEADRACE_ARCHIVE": "/archive",
        "HEADRACE_GATEWAY_HOST": "localhost",
        "HEADRACE_GATEWAY_PORT": "80",
        "HEADRACE_METRICS_HOST": "::1",
        "HEADRACE_METRICS_PORT": "9100",
        "HEADRACE_DEVICE": "cuda",
        "HEADRACE_LOG_LEVEL": "DEBUG",
        "HEADRACE_INSTANCE": "worker-3",
        "HEADRACE_SIGNING_KEY": "/keys/mine.pem",
        "HEADRACE_TRUSTED_KEYS": "/keys/trusted",
        "HEADRACE_WEIGHT_STORE": "s3://id:secret@bucket/weights?region=eu-west-1",
        "HEADRACE_TRACE_SAMPLE": "0.25",
        "HEADRACE_ALERTMANAGER_URL": "https://on-call:secret@a.example/alerts",
        "HEADRACE_SLACK_WEBHOOK_FILE": "/run/secrets/slack",
        "HEADRACE_TRIAL_SHARE": "0.5",
        "HEADRACE_ADMIN_TOKEN_FILE": "/run/secrets/admin",
        "HEADRACE_TRUSTED_SET": str(Path(__file__)),
        "HEADRACE_WATCHES": str(Path(__file__)),
        "HEADRACE_DRIFT_ONLY_TELL": "true",
        "HEADRACE_RETRAIN_COMMAND": "headrace train",
    }
    settings = Settings.load(variables)
    assert settings == Settings(
        "a.example:9092,[::1]:9093",
        variables["HEADRACE_REDIS"],
        Path("/data"),
        Path("home"),
        Path("/archive"),
        "localhost",
        80,
        "::1",
        9100,
        "cuda",
        "debug",
        "worker-3",
        Path("/keys/mine.pem"),
        Path("/keys/trusted"),
        "s3://id:secret@bucket/weights?region=eu-west-1",
        0.25,
        "https://on-call:secret@a.example/alerts",
        "/run/secrets/slack",
        0.5,
        "/run/secrets/admin",
        trusted_set=str(Path(__file__)),
        watches=str(Path(__file__)),
        drift_only_tell=True,
        retrain_command="headrace train",
    )
    assert settings.shown() == variables | {
        "HEADRACE_REDIS": "rediss://user:***@r.example:6380/2",
        "HEADRACE_WEIGHT_STORE": "s3://id:***@bucket/weights?region=eu-west-1",
        "HEADRACE_ALERTMANAGER_URL": "https://on-call:***@a.example/alerts",
        "HEADRACE_GATEWAY_PORT": 80,
        "HEADRACE_METRICS_PORT": 9100,
        "HEADRACE_LOG_LEVEL": "debug",
        "HEADRACE_DRIFT_ONLY_TELL": True,
    }


def test_archive_keys_and_weights_lie_in_the_home_unless_told_otherwise() -> None:
    settings = Settings.load({"HEADRACE_HOME": "/home"})
    assert settings == Settings(home=Path("/home"))
    assert (settings.archive, settings.weight_store) == (Path("/home/archive"), "/home/weights")
    assert (settings.signing_key, settings.trusted_keys) == (Path("/home/keys/signing.pem"), Path("/home/keys/trusted"))
    assert Settings.load({"HEADRACE_HOME": "/home", "HEADRACE_ARCHIVE": "/archive"}).archive == Path("/archive")
    assert Settings.load({"HEADRACE_HOME": "/home", "HEADRACE_WEIGHT_STORE": "/weights"}).weight_store == "/weights"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HEADRACE_KAFKA", "localhost"),
        ("HEADRACE_KAFKA", "localhost:0"),
        ("HEADRACE_KAFKA", "localhost:70000"),
        ("HEADRACE_KAFKA", "a:1,,b:2"),
        ("HEADRACE_REDIS", "localhost:6379"),
        ("HEADRACE_REDIS", "redis://"),
        ("HEADRACE_REDIS", "redis://host:port"),
        ("HEADRACE_DATA", __file__),
        ("HEADRACE_ARCHIVE", __file__),
        ("HEADRACE_SIGNING_KEY", str(Path(__file__).parent)),
        ("HEADRACE_TRUSTED_KEYS", __file__),
        ("HEADRACE_WEIGHT_STORE", __file__),
        ("HEADRACE_WEIGHT_STORE", "gs://bucket"),
        ("HEADRACE_WEIGHT_STORE", "s3:///prefix"),
        ("HEADRACE_GATEWAY_HOST", "no host"),
        ("HEADRACE_INSTANCE", "worker 3"),
        ("HEADRACE_GATEWAY_HOST", "1.2.3.400"),
        ("HEADRACE_GATEWAY_PORT", "65536"),
        ("HEADRACE_METRICS_PORT", "-1"),
        ("HEADRACE_DEVICE", "gpu"),
        ("HEADRACE_LOG_LEVEL", "loud"),
        ("HEADRACE_TRACE_SAMPLE", "1.5"),
        ("HEADRACE_TRIAL_SHARE", "2"),
        ("HEADRACE_ADMIN_TOKEN_FILE", str(Path(__file__).parent)),
        ("HEADRACE_TRACE_SAMPLE", "10%"),
        ("HEADRACE_ALERTMANAGER_URL", "alertmanager:9093"),
        ("HEADRACE_SLACK_WEBHOOK_FILE", str(Path(__file__).parent)),
        ("HEADRACE_WATCHES", str(Path(__file__).with_name("no such file"))),
        ("HEADRACE_DRIFT_ONLY_TELL", "maybe"),
    ],
)
def test_a_bad_value_is_told_with_variable_value_and_what_was_expected(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable}: .* was expected; the value is ") as error:
        Settings.load({variable: value})
    assert repr(value) in str(error.value)


def test_an_error_does_not_tell_the_password() -> None:
    with pytest.raises(SettingsError) as error:
        Settings.load({"HEADRACE_REDIS": "http://user:secret@host"})
    assert "secret" not in str(error.value)
    assert "user:***@host" in str(error.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@host:1/0", "redis://:***@host:1/0"),
        ("redis://user:se@cret@host", "redis://user:***@host"),
        ("redis://user@host", "redis://user@host"),
        ("redis://host:1/0", "redis://host:1/0"),
        ("127.0.0.1:9092", "127.0.0.1:9092"),
    ],
)
def test_only_the_password_is_masked(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_settings_do_not_change_once_read() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().gateway_port = 1  # type: ignore[misc]
