#!/usr/bin/env python3
"""The embedded tracker against an MLflow server: python3 benches/tracker.py [--coordinator FILE]

Both on this machine, one after the other, each with SQLite below. The same plain requests, made beforehand, go to both over
one kept connection: batches of 1,000 metrics, and single metrics, until a question is answered. Then the embedded tracker
alone: the list of 1,000 runs, and a run with a million points. Needs mlflow (the whole of it) in the Python that runs this,
and target/release/coordinator.
"""

import argparse, http.client, json, os, pathlib, re, socket, statistics, subprocess, sys, tempfile, time, urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEADLINE = 120


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--coordinator", default=ROOT / "target/release/coordinator")
    arguments.add_argument("--batches", type=int, default=20)
    arguments.add_argument("--singles", type=int, default=1000)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        theirs = ingest(mlflow_server(folder), options)
        ours = ingest(embedded(folder / "ours", options.coordinator), options)
        for what, a, b in zip(("batches of 1,000", "one metric a request"), ours, theirs):
            print(f"{what:22} embedded {a:9.0f} metrics/s, MLflow {b:7.0f} metrics/s: {a / b:5.0f} times")
        opening(folder / "many", options.coordinator)


def embedded(runs, coordinator):
    """The embedded tracker's process and port."""
    runs.mkdir(exist_ok=True)
    command = [coordinator, "tracker", "serve", "--dir", runs, "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    return process, urllib.parse.urlparse(line.split(" at ")[1].split(";")[0]).port


def mlflow_server(folder):
    """An MLflow server's process and port, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", "--backend-store-uri",
               f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "theirs")]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet, cwd=folder)
    until = time.monotonic() + DEADLINE
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return process, port
        except OSError:
            pass
        if time.monotonic() > until:
            process.kill()
            sys.exit("mlflow server does not answer")
        time.sleep(0.2)


def call(connection, method, path, body=None):
    text = json.dumps(body) if body is not None else None
    headers = {"Content-Type": "application/json"} if body is not None else {}
    try:
        connection.request(method, path, text, headers)
        answer = connection.getresponse()
    except (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected):
        # MLflow's server closes what was quiet for five seconds; metrics that come twice count once.
        connection.close()
        connection.request(method, path, text, headers)
        answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 200, (path, answer.status, text[:200])
    return json.loads(text)


class Plain:
    """A kept connection that sends requests made beforehand, so that what is measured is the server's work: Python's own HTTP
    client takes a tenth of a millisecond for each, more than one of the two."""

    def __init__(self, port):
        self.port, self.socket = port, socket.create_connection(("127.0.0.1", port), DEADLINE)

    def request(self, path, body):
        text = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: application/json\r\nContent-Length: {len(text)}"
        return f"{head}\r\n\r\n".encode() + text

    def send(self, request):
        self.socket.sendall(request)
        answer = self.socket.recv(1 << 16)
        while b"\r\n\r\n" not in answer:
            answer += self.more()
        head, body = answer.split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 200 "), answer
        length = int(re.search(rb"(?i)content-length: *(\d+)", head)[1])
        while len(body) < length:
            body += self.more()

    def more(self):
        part = self.socket.recv(1 << 16)
        assert part, "the server has closed the connection"
        return part


def ingest(server, options):
    """Metrics a second, in batches and one by one."""
    process, port = server
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        base = "/api/2.0/mlflow"
        run = call(connection, "POST", f"{base}/runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"]

        def metric(step):
            return {"key": f"metric {step % 10}", "value": step / 7, "timestamp": 1_700_000_000_000 + step, "step": step}

        def rate(bodies):
            plain = Plain(port)
            requests = [plain.request(f"{base}/runs/log-batch", {"run_id": run, "metrics": body}) for body in bodies]
            began = time.perf_counter()
            for request in requests:
                plain.send(request)
            # The embedded tracker takes what was appended into its index before it answers a question: that counts.
            call(connection, "GET", f"{base}/metrics/get-history?run_id={run}&metric_key=metric%201&max_results=1")
            return sum(map(len, bodies)) / (time.perf_counter() - began)

        rate([[metric(step) for step in range(1000)]])
        batches = rate([[metric(1000 * batch + step) for step in range(1000)] for batch in range(1, options.batches + 1)])
        singles = rate([[metric(10_000_000 + step)] for step in range(options.singles)])
        for key in range(10):
            path = f"{base}/metrics/get-history?run_id={run}&metric_key=metric%20{key}&max_results=25000"
            count = len(call(connection, "GET", path)["metrics"])
            assert count == (1000 * (options.batches + 1) + options.singles) // 10, f"{count} of metric {key}"
        return batches, singles
    finally:
        process.terminate()
        process.wait(DEADLINE)


def record(name):
    return json.dumps({
        "run": name, "id": name, "status": "completed", "seed": 42, "config_digest": "c", "git_commit": None,
        "dataset": {"name": "digits", "version": "digits@0", "digest": "d"}, "members": [], "events": [], "views": 1,
        "final": {"step": 1, "epoch": 1, "samples": 1, "digest": "f", "metrics": {}}, "retries": 0, "exact": True,
    })


def line(step, key, value):
    return (f'{{"step":{step},"epoch":{step / 1e5!r},"samples":{step * 64},"time":{1.7e9 + step!r},"key":"{key}",'
            f'"value":{value!r}}}\n')


def opening(runs, coordinator):
    """1,000 runs of a hundred points each, and one of a million."""
    config = "".join(f"key{n} = {n}\n" for n in range(60))
    for number in range(1, 1001):
        folder = runs / f"digits-{number}"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(record(folder.name))
        (folder / "config.toml").write_text(config)
        keys = ["train/loss", "train/accuracy", "validation/loss", "validation/accuracy"]
        lines = [line(step, key, number / (step + 1)) for step in range(25) for key in keys]
        (folder / "metrics.jsonl").write_text("".join(lines))
    big = runs / "big-1"
    big.mkdir()
    (big / "run.json").write_text(record("big-1"))
    with open(big / "metrics.jsonl", "w") as file:
        for step in range(1, 500_001):
            file.write(line(step, "train/loss", 1e3 / step) + line(step, "train/accuracy", step / 5e5))
    began = time.perf_counter()
    process, port = embedded(runs, coordinator)
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        call(connection, "GET", "/api/runs?limit=1")
        took = time.perf_counter() - began
        print(f"the first look at 1,001 runs with 1,100,000 points: {took:.1f} s, {1.1e6 / took:.0f} metrics/s")
        base, loss, accuracy = "/api/2.0/mlflow", "key=train/loss", "key=train/accuracy"
        body = {"experiment_ids": [call(connection, "GET", f"{base}/experiments/get-by-name?experiment_name=digits")
                                   ["experiment"]["experiment_id"]], "max_results": 1000}
        order = urllib.parse.quote("metrics.`validation/loss`")
        for what, method, path, body in [
            ("the list of 1,000 runs", "GET", "/api/runs?limit=1000", None),
            ("the same by a metric", "GET", f"/api/runs?limit=1000&order_by={order}", None),
            ("the same for MLflow's client, 60 params each", "POST", f"{base}/runs/search", body),
            ("a run with a million points: the run", "GET", "/api/runs/big-1", None),
            ("  its two curves of half a million points", "GET", f"/api/runs/big-1/points?{loss}&{accuracy}", None),
        ]:
            times = []
            for _ in range(5):
                began = time.perf_counter()
                call(connection, method, path, body)
                times.append(1e3 * (time.perf_counter() - began))
            print(f"{what:46} median {statistics.median(times):7.1f} ms, worst {max(times):7.1f} ms")
    finally:
        process.terminate()
        process.wait(DEADLINE)


main()
