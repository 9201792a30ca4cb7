#!/usr/bin/env python3
"""What full tracking costs a step: python3 benches/tracking.py [--rounds N] [--epochs N] [--mlflow PROGRAM]

The mlp of configs/csv.toml on the digits with two workers, once with the run's folder alone and once with the embedded
tracker, MLflow, W&B's files and TensorBoard's, turn about, which of the two comes first changing from round to round.
A step's time is that of the steps between the first tenth and the end, from the times in metrics.jsonl. MLflow is a real
server over SQLite if its program is named, else a small one in this process that takes everything at once, so that what
is measured is the coordinator's part and not the server's share of the machine.
"""

import argparse
import http.server
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target/release/coordinator"
DEADLINE = 600


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--epochs", type=int, default=300)
    arguments.add_argument("--mlflow", help="the program `mlflow`, for a real server")
    arguments.add_argument("--coordinator", type=pathlib.Path, default=PROGRAM)
    asked = arguments.parse_args()
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
        for times, settings in sides if round % 2 == 0 else reversed(sides):
            times.append(train(asked, folder, [*settings, f"tracker.mlflow_uri={url}"]))
    ratios = [1e2 * (b / a - 1) for a, b in zip(none, full)]
    for name, times in [("no sinks", none), ("all sinks", full)]:
        times = sorted(1e6 * seconds for seconds in times)
        print(f"{name:10} median {statistics.median(times):8.1f} us a step, {times[0]:.1f} to {times[-1]:.1f}")
    print(f"all sinks cost {statistics.median(ratios):+.2f} % (median of pairs, {min(ratios):+.2f} to {max(ratios):+.2f})")


def train(asked, folder, settings):
    """Seconds of a step."""
    runs = folder / "runs"
    keys = [f"run.dir={runs}", "run.name=run", f"train.epochs={asked.epochs}", "checkpoint.every=1h",
            "train.evaluate_every=0", *settings]
    command = [asked.coordinator, "--config", ROOT / "configs/csv.toml", "--local-workers", "2"]
    command += [part for key in keys for part in ("--set", key)]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=DEADLINE)
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}")
    if "not sent" in done.stdout:
        print("  note: the end of the run was not sent in time; the steps are measured all the same")
    lines = [json.loads(line) for line in (runs / "run/metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(runs)
    losses = [line for line in lines if line["key"] == "train/loss"]
    first, last = losses[len(losses) // 10], losses[-1]
    return (last["time"] - first["time"]) / (last["step"] - first["step"])


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
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Small)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}", server.shutdown


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
