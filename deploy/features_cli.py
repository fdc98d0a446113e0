"""`headrace features ...`: the Feast repository, and the rows as a whole. Commands import what they need when they run."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.deploy.settings import Settings

features_app = typer.Typer(help="The Feast repository, and the rows of the online store as a whole.", no_args_is_help=True)

Redis = Annotated[str | None, typer.Option("--redis", metavar="URL", help="Redis as a URL; HEADRACE_REDIS where not given.")]
Kafka = Annotated[str | None, typer.Option("--kafka", metavar="ADDR", help="Broker as host:port; HEADRACE_KAFKA where not given.")]


@features_app.command("apply")
def apply_features(
    registry: Annotated[Path | None, typer.Option(help="Feast's registry; in HEADRACE_HOME where not given.")] = None, redis: Redis = None
) -> None:
    """Write the entities, feature views and feature services into Feast's registry."""
    from headrace.deploy.feature_repository import apply

    loaded = Settings.load()
    place = registry or loaded.home / "feast" / "registry.db"
    place.parent.mkdir(parents=True, exist_ok=True)
    for name in apply(place, redis or loaded.redis, loaded.archive):
        typer.echo(name)
    typer.echo(f"written to {place}")
