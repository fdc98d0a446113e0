"""The outside peers of drift detection, Evidently and alibi-detect, on rows of numbers.

Run as a script in the environment of `drift_peers.lock`, since the two need older packages than Headrace; so nothing of Headrace is
imported here. Both hold one window of values after the other against a reference before them; where one finds a drift, the next
values are its new reference. Evidently uses the test, and the limit, that it chooses itself for the column. alibi-detect uses
Kolmogorov and Smirnov's test, or Fisher's where all values are 0 or 1, with a chance of 1e-4 for a finding where nothing has changed,
as the tests of windows have beside it (its own choice, 0.05, would make 1 window in 20 a false alarm).

Reads a JSON object a line from standard input, `values`, and how many of them are `reference` and `window`, and answers each with
one line: at which places `evidently` and `alibi_detect` find a drift. The first line tells their versions.
"""

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from alibi_detect.cd import FETDrift, KSDrift
from evidently import DataDefinition, Dataset, Report
from evidently.metrics import ValueDrift

LIMIT = 1e-4
_NUMBER = DataDefinition(numerical_columns=["value"])
_REPORT = Report([ValueDrift(column="value")])

# Says of each window of new values whether they drift from the reference.
Judge = Callable[[Any], bool]


def places(values: Any, reference: int, window: int, judge_of: Callable[[Any], Judge]) -> list[int]:
    """Return at which values a drift is found: the last of a window that differs from the reference."""
    found: list[int] = []
    begin = 0
    while begin + reference + window <= len(values):
        judge = judge_of(values[begin : begin + reference])
        end = begin + reference
        begin = len(values)
        while end + window <= len(values):
            newest = values[end : end + window]
            end += window
            if judge(newest):
                found.append(end - 1)
                begin = end
                break
    return found


def evidently(reference: Any) -> Judge:
    """Return Evidently's judgement on a column of numbers, by the test that it chooses."""
    before = _dataset(reference)

    def drifts(newest: Any) -> bool:
        told = _REPORT.run(_dataset(newest), before).dict()["metrics"][0]
        limit = told["config"]["threshold"]
        # Its distances grow with a drift; its p-values fall.
        return bool(told["value"] < limit if "p_value" in told["config"]["method"] else told["value"] >= limit)

    return drifts


def alibi_detect(reference: Any) -> Judge:
    """Return alibi-detect's judgement: Fisher's exact test on errors of 0 and 1, which rise, Kolmogorov-Smirnov's on other values."""
    if set(np.unique(reference)) <= {0.0, 1.0}:
        detector = FETDrift(reference.astype(np.int64), p_val=LIMIT, alternative="greater")
        return lambda newest: bool(detector.predict(newest.astype(np.int64))["data"]["is_drift"])
    detector = KSDrift(reference, p_val=LIMIT)
    return lambda newest: bool(detector.predict(newest)["data"]["is_drift"])


def _dataset(values: Any) -> Dataset:
    return Dataset.from_pandas(pd.DataFrame({"value": values}), data_definition=_NUMBER)


def main() -> None:
    """Answer each line until there is no more."""
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps({"evidently": version("evidently"), "alibi_detect": version("alibi-detect")}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        values = np.array(asked["values"], np.float64)
        found = {judge.__name__: places(values, asked["reference"], asked["window"], judge) for judge in (evidently, alibi_detect)}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
