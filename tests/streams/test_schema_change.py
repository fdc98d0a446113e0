"""A message of a later version at a worker of this one: what was only added is passed over, what was changed is kept apart."""

import json
import time
from itertools import islice
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from headrace.deploy.cli import app
from headrace.features.online_store import OnlineStore, connect
from headrace.schemas import DeadLetter, generate
from headrace.schemas.topics import CLICKS
from headrace.schemas.wire import SCHEMA_MAJOR, SCHEMA_MINOR
from headrace.streams import kafka as clients
from headrace.streams.feature_worker import FeatureWorker
from headrace.streams.subscriber import Subscriber

GOOD: dict[str, Any] = {"type": "click", "event_time_ms": 1_700_000_000_000, "item_id": "lamp", "user_id": "ada"}
LATER, NEXT = f"{SCHEMA_MAJOR}.{SCHEMA_MINOR + 1}", f"{SCHEMA_MAJOR + 1}.0"


def test_a_new_optional_field_passes_an_old_worker_and_an_incompatible_event_is_kept_apart(fresh_topics: str, clean_redis: str) -> None:
    producer = clients.producer(fresh_topics, "a later publisher")

    def send(event_id: str, version: str, **fields: Any) -> None:
        body = json.dumps(GOOD | {"event_id": event_id} | fields)
        producer.produce(CLICKS.name, body, "ada", headers=[("ce_dataschema", f"urn:headrace:click:{version}".encode())])

    send("added", LATER, colour="red")
    send("misspelt", f"{SCHEMA_MAJOR}.{SCHEMA_MINOR}", colour="red")
    send("of-another-type", LATER, event_time_ms="yesterday")
    send("of-the-next-major-version", NEXT)
    send("plain", f"{SCHEMA_MAJOR}.0")
    assert producer.flush(10.0) == 0
    store = OnlineStore(connect(clean_redis))
    worker = FeatureWorker(fresh_topics, store)
    deadline = time.monotonic() + 30
    while (row := store.read_users(["ada"])[0]) is None or row.views < 2:
        worker.step(0.1)
        assert time.monotonic() < deadline
    worker.commit()
    worker.close()
    assert (row.views, len(row.history)) == (2, 2)
    with Subscriber(fresh_topics, DeadLetter, start="beginning") as letters:
        refused = list(islice(letters, 3))
    reasons = {json.loads(letter.raw)["event_id"]: letter.reason for letter in refused}
    assert "colour" in reasons["misspelt"]
    assert "event_time_ms" in reasons["of-another-type"]
    assert f"major version {SCHEMA_MAJOR}" in reasons["of-the-next-major-version"]


def test_the_check_of_schemas_refuses_what_breaks_an_older_version(tmp_path: Path) -> None:
    generate.write(tmp_path)
    checked = CliRunner().invoke(app, ["schemas", "check", "--against", str(tmp_path)])
    assert (checked.exit_code, "break nothing" in checked.output) == (0, True)
    older = json.loads((tmp_path / "click.schema.json").read_text())
    older["properties"]["colour"] = {"type": "string"}
    (tmp_path / "click.schema.json").write_text(json.dumps(older))
    refused = CliRunner().invoke(app, ["schemas", "check", "--against", str(tmp_path)])
    assert refused.exit_code == 1
    assert "click.schema.json: $.colour: the field was removed" in refused.output
