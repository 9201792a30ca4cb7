#!/usr/bin/env python3
"""What full tracking costs a step: python3 benches/tracking.py [--rounds N] [--epochs N] [--mlflow PROGRAM]

The mlp of configs/csv.toml on the digits with two workers, once with the run's folder alone and once with the embedded
tracker, MLflow, W&B's files and TensorBoard's, turn about, which of the two comes first changing from round to round.

Two things are measured of the steps between the first tenth and the last: their time, from metrics.jsonl, which other work on
the machine and where its threads happen to be put change by several percent; and the processor time of the coordinator's
process, which has all that tracking does and changes less. On a machine whose processors are all taken by workers, a
microsecond of the one is a microsecond of the others less: so the second says what the first can't. Each is given with the 95 %
interval of its median over the pairs (bootstrap). Beside it stands what the threads that only track have computed: there is nothing
to subtract in it.

MLflow is a real server over SQLite if its program is named, else a small one in a process of its own that takes everything at
once, so that what is measured is the coordinator's part and not the server's share of the machine.
"""

import argparse
import http.server
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target/release/coordinator"
DEADLINE = 600


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--epochs", type=int, default=300)
    arguments.add_argument("--mlflow", help="the program `mlflow`, for a real server")
    arguments.add_argument("--coordinator", type=pathlib.Path, default=PROGRAM)
    arguments.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = arguments.parse_args()
    if asked.serve:
        return serve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        url, end = real(asked.mlflow, folder) if asked.mlflow else small()
        try:
            measure(asked, folder, url)
        finally:
            end()


def measure(asked, folder, url):
    none, full = [], []
    for round in range(asked.rounds):
        sides = [(none, ["tracker.sinks=[]"]), (full, ['tracker.sinks=["embedded","mlflow","wandb","tensorboard"]'])]
        for taken, settings in sides if round % 2 == 0 else reversed(sides):
            taken.append(train(asked, folder, [*settings, f"tracker.mlflow_uri={url}"]))
    processors = os.cpu_count()
    for name, taken in [("no sinks", none), ("all sinks", full)]:
        steps, busy, own = (sorted(1e6 * one[what] for one in taken) for what in (0, 1, 2))
        print(f"{name:10} a step takes {statistics.median(steps):7.1f} us ({steps[0]:.1f} to {steps[-1]:.1f}), of the coordinator's "
              f"processor time {statistics.median(busy):7.1f} us ({busy[0]:.1f} to {busy[-1]:.1f}), of that in threads that only track "
              f"{statistics.median(own):5.1f} us ({own[0]:.1f} to {own[-1]:.1f})")
    step = statistics.median(one[0] for one in none)
    of_time = [1e2 * (b[0] / a[0] - 1) for a, b in zip(none, full)]
    of_work = [1e2 * (b[1] - a[1]) / (step * processors) for a, b in zip(none, full)]
    of_threads = [1e2 * one[2] / (step * processors) for one in full]
    work = f"of {processors} processors' time in a step"
    for what, found in [("of a step's time", of_time), (work, of_work), (f"{work}, by the threads that only track", of_threads)]:
        low, high = interval(found)
        print(f"all sinks cost {statistics.median(found):+.2f} % {what} (median of {len(found)} pairs, 95 %: {low:+.2f} to {high:+.2f})")


def interval(values, times=10_000):
    """Where the median lies, as 95 of 100 draws of as many pairs have it."""
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(times))
    return medians[times // 40], medians[-times // 40]


def train(asked, folder, settings):
    """Seconds of a step, and seconds that the coordinator's process and its threads that only track computed in a step."""
    runs = folder / "runs"
    keys = [f"run.dir={runs}", "run.name=run", f"train.epochs={asked.epochs}", "checkpoint.every=1h",
            "train.evaluate_every=0", *settings]
    command = [asked.coordinator, "--config", ROOT / "configs/csv.toml", "--local-workers", "2"]
    command += [part for key in keys for part in ("--set", key)]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    output = folder / "output"
    with open(output, "w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
    try:
        first, last = watch(process, runs / "run/metrics.jsonl", asked.epochs)
        code = process.wait(DEADLINE)
    finally:
        process.kill()
    said = output.read_text()
    if code or last is None:
        raise SystemExit(said)
    if "not sent" in said:
        print("  note: the end of the run was not sent in time; the steps are measured all the same")
    shutil.rmtree(runs)
    steps = last[0] - first[0]
    return tuple((after - before) / steps for before, after in zip(first[1:], last[1:]))


def watch(process, metrics, epochs):
    """Step, time, the process's processor time and that of its threads that only track, after a tenth of the epochs and when the
    last one is nearly over."""
    # What clock_getcpuclockid(3) gives for a process.
    clock, marks = ~process.pid << 3 | 2, []
    deadline = time.monotonic() + DEADLINE
    while len(marks) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
        busy, newest = time.clock_gettime(clock), tail(metrics)
        if newest and newest["epoch"] >= epochs * (0.1, 0.95)[len(marks)]:
            marks.append((newest["step"], newest["time"], busy, tracking(process.pid)))
    return marks if len(marks) == 2 else (None, None)


def tracking(pid):
    """Seconds that the sinks' and the tracker's threads have computed."""
    seconds = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().startswith(("sink-", "tracker")):
            seconds += int((task / "schedstat").read_text().split()[0]) / 1e9
    return seconds


def tail(path):
    """The newest loss."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 4096))
            lines = file.read().split(b"\n")[1:-1]
    except OSError:
        return None
    return next((json.loads(line) for line in reversed(lines) if b'"train/loss"' in line), None)


class Small(http.server.BaseHTTPRequestHandler):
    """Takes what an MLflow server takes, and keeps nothing."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        info = {"run_id": "r", "experiment_id": "0", "status": "RUNNING", "lifecycle_stage": "active", "artifact_uri": "s3://x"}
        answers = {"get-by-name": {"experiment": {"experiment_id": "0"}}, "create": {"run": {"info": info}},
                   "get": {"run": {"info": info, "data": {}}}}
        text = json.dumps(answers.get(self.path.split("?")[0].rsplit("/", 1)[1], {})).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *_):
        pass


def small():
    process = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    return process.stdout.readline().strip(), process.kill


def serve():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Small)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


def real(program, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination",
               folder / "artifacts", "--port", str(port), "--workers", "1"]
    with open(folder / "mlflow.log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2).read()
            return url, lambda: os.killpg(process.pid, signal.SIGKILL)
        except OSError:
            assert time.monotonic() < deadline and process.poll() is None, (folder / "mlflow.log").read_text()
            time.sleep(0.2)


main()
