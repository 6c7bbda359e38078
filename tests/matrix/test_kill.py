# SPDX-License-Identifier: Apache-2.0
"""A run that is killed loses and repeats nothing, and numbers do not depend on the number of jobs."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from splitguard.matrix import TIMINGS, Matrix, Results
from tests.matrix.toys import QUICK

#: White-box inversion needs no toy, so that workers know it.
MATRIX: dict[str, Any] = {
    **QUICK,
    "defense": ["none", {"gaussian": {"epsilon": 50}}],
    "attack": {"white-box-inversion": {"steps": 5}},
    "train": {**QUICK["train"], "epochs": 2, "checkpoint_every": 2},
}
#: Whatever runs the tests in the background ignores Ctrl-C, and so would all that it starts.
SCRIPT = """
import json, signal, sys
from splitguard.matrix import Matrix
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        Matrix(json.loads(sys.argv[1])).run(sys.argv[2], jobs=2, progress=False)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def numbers(results: Results) -> pd.DataFrame:
    assert (results.frame["status"] == "ok").all(), results.frame["reason"].tolist()
    return results.frame.drop(columns=list(TIMINGS))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return numbers(Matrix(MATRIX).run(tmp_path_factory.mktemp("undisturbed"), jobs=1, progress=False))


def start(out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SCRIPT, json.dumps(MATRIX), str(out)]
    with said(out).open("wb") as file:
        return subprocess.Popen(command, start_new_session=True, stderr=file)


def said(out: Path) -> Path:
    return out.with_name(f"{out.name}.stderr")


def finished(out: Path) -> dict[str, float]:
    """Sessions and attacks that are done, and the seconds each took: what is done again takes others."""
    paths = [*out.glob("records/*.json"), *out.glob("sessions/*/outcome.json")]
    values = {str(p): json.loads(p.read_text())["values"] for p in paths if ".part" not in str(p)}
    return {p: v["attack_seconds"] if "records" in p else v["train_seconds"] for p, v in values.items()}


def wait_for(out: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 120
    while len(finished(out)) < count and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)


@pytest.mark.slow
def test_two_jobs_give_the_numbers_of_one(undisturbed: pd.DataFrame, tmp_path: Path) -> None:
    process = start(tmp_path)
    assert process.wait(timeout=300) == 0, said(tmp_path).read_text()
    pd.testing.assert_frame_equal(numbers(Results(tmp_path)), undisturbed)


@pytest.mark.slow
def test_two_jobs_killed_and_resumed_with_one_equal_one_undisturbed(undisturbed: pd.DataFrame, tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for(tmp_path, 2, process)
    process.kill()
    process.wait()
    before = finished(tmp_path)
    assert 2 <= len(before) < 6  # of 2 trainings and 4 attacks; early, so that a busy machine is not too late
    results = Matrix(MATRIX).run(tmp_path, jobs=1, progress=False)
    pd.testing.assert_frame_equal(numbers(results), undisturbed)
    after = finished(tmp_path)
    assert {p: after[p] for p in before} == before
    assert not list(tmp_path.rglob("*.checkpoint"))


@pytest.mark.slow
def test_ctrl_c_ends_cleanly_and_keeps_what_is_done(undisturbed: pd.DataFrame, tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for(tmp_path, 1, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    assert process.wait(timeout=60) == 130
    assert "Traceback" not in said(tmp_path).read_text()
    assert len(finished(tmp_path)) >= 1
    pd.testing.assert_frame_equal(numbers(Matrix(MATRIX).run(tmp_path, jobs=1, progress=False)), undisturbed)


@pytest.mark.slow
def test_killed_ten_times_at_random_moments(undisturbed: pd.DataFrame, tmp_path: Path) -> None:
    moments = random.Random(0)
    for _ in range(10):
        process = start(tmp_path)
        time.sleep(moments.uniform(2, 12))
        process.kill()
        process.wait()
        time.sleep(moments.uniform(0, 0.3))  # sometimes its workers are still there when the next run starts
    process = start(tmp_path)
    assert process.wait(timeout=300) == 0, said(tmp_path).read_text()
    pd.testing.assert_frame_equal(numbers(Results(tmp_path)), undisturbed)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers through /proc")
def test_a_worker_that_the_system_kills_ends_the_run_with_a_reason(undisturbed: pd.DataFrame, tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for(tmp_path, 1, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(pid) for pid in children if "LokyProcess" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(workers[0], signal.SIGKILL)
    assert process.wait(timeout=60) == 1
    assert "a worker process was killed from outside" in said(tmp_path).read_text()
    pd.testing.assert_frame_equal(numbers(Matrix(MATRIX).run(tmp_path, jobs=1, progress=False)), undisturbed)
