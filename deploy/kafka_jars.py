"""Apache Kafka's jars: fetched once per user by Maven coordinates, held to the checksums of `kafka-jars.sha256`.

`mvn` fetches them where it is on PATH, else the `jgo` package, which needs nothing but Python. Each line of the lock is a
SHA-256 and a coordinate `group:artifact:version`; `python -m headrace.deploy.kafka_jars` writes it anew after KAFKA_VERSION was changed.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import escape

KAFKA_VERSION = "4.1.0"
ROOTS = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.slf4j:slf4j-simple:1.7.36")
LOCK = Path(__file__).with_name("kafka-jars.sha256")
FETCH_TIMEOUT_S = 600.0
AT_ONCE = 8

Say = Callable[[str], None]
Fetch = Callable[[Sequence[str], Path], None]


class KafkaJarsUnavailable(RuntimeError):
    """Kafka's jars cannot be fetched."""


class KafkaJarsError(RuntimeError):
    """What was fetched is not what the lock names."""


def cache_folder() -> Path:
    """Return where Headrace keeps what it fetches: HEADRACE_CACHE, else the user's cache folder."""
    if given := os.environ.get("HEADRACE_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "headrace"


def kafka_jars(say: Say, cache: Path | None = None, lock: Path = LOCK, fetch: Fetch | None = None) -> list[Path]:
    """Return the jars, fetching them where they are not at hand. Raises KafkaJarsUnavailable or KafkaJarsError.

    Jars that were verified once are only looked at by name and size at later starts.
    """
    wanted = read_lock(lock)
    folder = (cache or cache_folder()) / f"kafka-{KAFKA_VERSION}"
    with _locked(folder):
        if not _is_whole(folder, wanted):
            say(f"fetching Apache Kafka {KAFKA_VERSION} (about 110 MB, once)")
            _fill(folder, wanted, fetch or fetch_jars)
    return [folder / file_name(coordinate) for coordinate in wanted]


def read_lock(lock: Path) -> dict[str, str]:
    """Return the SHA-256 of each coordinate."""
    lines = (line.split() for line in lock.read_text().splitlines() if line.strip())
    return {coordinate: sha256 for sha256, coordinate in lines}


def file_name(coordinate: str) -> str:
    """Return the name of the jar of `group:artifact:version`."""
    _, artifact, version = coordinate.split(":")
    return f"{artifact}-{version}.jar"


def _is_whole(folder: Path, wanted: dict[str, str]) -> bool:
    stamp = folder / "verified"
    if not stamp.exists():
        return False
    verified = dict(line.rsplit(" ", 1) for line in stamp.read_text().splitlines())
    paths = {coordinate: folder / file_name(coordinate) for coordinate in wanted}
    found = {f"{wanted[coordinate]} {coordinate}": str(path.stat().st_size) for coordinate, path in paths.items() if path.exists()}
    return found == verified


def _fill(folder: Path, wanted: dict[str, str], fetch: Fetch) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetching-") as temporary:
        fresh = Path(temporary) / "jars"
        fresh.mkdir()
        fetch(list(wanted), fresh)
        sizes = [f"{sha256} {coordinate} {_verified(fresh, coordinate, sha256)}" for coordinate, sha256 in wanted.items()]
        (fresh / "verified").write_text("\n".join(sizes) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)


def _verified(folder: Path, coordinate: str, sha256: str) -> int:
    """Return the jar's size. Raises KafkaJarsUnavailable where it is missing, KafkaJarsError where it is not the one of the lock."""
    path = folder / file_name(coordinate)
    if not path.exists():
        raise KafkaJarsUnavailable(f"{path.name} was not fetched; try again, or point HEADRACE_KAFKA at a broker of yours")
    found = _sha256(path)
    if found != sha256:
        raise KafkaJarsError(f"{path.name} has sha256 {found}, but {LOCK.name} says {sha256}: not the file that Headrace knows")
    return path.stat().st_size


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_jars(coordinates: Sequence[str], folder: Path) -> None:
    """Fetch jars with mvn where it is on PATH, with jgo where not or where mvn fails. Raises KafkaJarsUnavailable.

    HEADRACE_MAVEN forces one of the two.
    """
    fetchers: dict[str, Fetch] = {"mvn": fetch_with_mvn, "jgo": fetch_with_jgo}
    chosen = os.environ.get("HEADRACE_MAVEN", "").strip()
    if chosen not in ("", *fetchers):
        raise KafkaJarsError(f"HEADRACE_MAVEN: mvn or jgo was expected; the value is {chosen!r}")
    reasons = []
    for name in [chosen] if chosen else ["mvn", "jgo"] if shutil.which("mvn") else ["jgo"]:
        try:
            return fetchers[name](coordinates, folder)
        except KafkaJarsUnavailable as error:
            reasons.append(str(error))
    raise KafkaJarsUnavailable("; ".join(reasons))


def fetch_with_mvn(coordinates: Sequence[str], folder: Path) -> None:
    """Fetch jars with Apache Maven. Raises KafkaJarsUnavailable."""
    with tempfile.TemporaryDirectory(prefix="headrace-pom-") as temporary:
        pom = Path(temporary) / "pom.xml"
        pom.write_text(_POM.format(dependencies="".join(map(_dependency, coordinates))))
        command = ["mvn", "-B", "-q", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={folder}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise KafkaJarsUnavailable(f"mvn could not fetch Kafka's jars: {error}") from None
    if done.returncode:
        raise KafkaJarsUnavailable(f"mvn could not fetch Kafka's jars: {(done.stdout or done.stderr).strip()[:500]}")


def fetch_with_jgo(coordinates: Sequence[str], folder: Path) -> None:
    """Fetch jars with jgo, which speaks to Maven repositories from Python. Raises KafkaJarsUnavailable."""
    from jgo.maven import MavenContext

    context = MavenContext(repo_cache=folder.parent / "repository")

    def fetch(coordinate: str) -> None:
        group, artifact, version = coordinate.split(":")
        found = context.project(group, artifact).at_version(version).artifact().resolve()
        shutil.copyfile(found, folder / file_name(coordinate))

    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(fetch, coordinates))
    except Exception as error:
        # jgo raises what its HTTP library does; whatever it is, the jars are not there.
        raise KafkaJarsUnavailable(f"jgo could not fetch Kafka's jars: {error}") from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time look after the cache."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _dependency(coordinate: str) -> str:
    group, artifact, version = map(escape, coordinate.split(":"))
    return (
        f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>"
        "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions></dependency>"
    )


_POM = (
    "<project><modelVersion>4.0.0</modelVersion><groupId>headrace</groupId><artifactId>jars</artifactId><version>1</version>"
    "<packaging>pom</packaging><dependencies>{dependencies}</dependencies></project>"
)


def write_lock(lock: Path = LOCK) -> None:
    """Resolve ROOTS with all that they need at run time, and write the checksums of what comes."""
    import jgo

    coordinates = sorted({f"{found.groupId}:{found.artifactId}:{found.version}" for root in ROOTS for found in jgo.resolve(root)})
    with tempfile.TemporaryDirectory(prefix="headrace-lock-") as temporary:
        folder = Path(temporary) / "jars"
        folder.mkdir()
        fetch_with_jgo(coordinates, folder)
        lock.write_text("".join(f"{_sha256(folder / file_name(coordinate))}  {coordinate}\n" for coordinate in coordinates))


if __name__ == "__main__":
    write_lock()
