"""The sinks in the hands of what reads them: a real MLflow server that is killed in mid-run, W&B's own `wandb sync`
against a server in this process, and TensorBoard's own reader. Every metric of a run's metrics.jsonl is in each of
them once, through an outage, a coordinator that is killed, and `coordinator tracker push`.

    python check_sinks.py BIN_DIR RUN_DIR

RUN_DIR is a finished run of the digits that was sent nowhere. Needs mlflow, wandb and tensorboard.
"""

import base64
import collections
import contextlib
import gzip
import http.server
import json
import math
import os
import pathlib
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"

from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = pathlib.Path(sys.argv[1]).resolve()
FINISHED = pathlib.Path(sys.argv[2]).resolve()
SCRIPTS = pathlib.Path(sys.executable).parent
DEADLINE_S = 100
SECRET = "no-file-has-this-word"
SINKS = 'tracker.sinks=["embedded","mlflow","wandb","tensorboard"]'


def until(what, look):
    """What `look` finds, once it finds something."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except (OSError, ValueError):
            pass
        time.sleep(0.05)
    raise AssertionError(f"not within {DEADLINE_S} s: {what}")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    """`mlflow server` over SQLite, which can be killed and started again."""

    def __init__(self, folder):
        self.folder, self.port, self.process = folder, free_port(), None
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [SCRIPTS / "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db",
                   "--artifacts-destination", self.folder / "artifacts", "--port", str(self.port), "--workers", "1"]
        with open(self.folder / "mlflow.log", "a") as log:
            # A session of its own, since it starts processes that must end with it.
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True)

    def ready(self):
        return urllib.request.urlopen(f"{self.url}/health", timeout=2).status == 200

    def kill(self):
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def coordinator(runs, name, url, *more):
    """The command that trains on the digits and sends the run everywhere."""
    settings = [f"run.dir={runs}", f"run.name={name}", SINKS, f"tracker.mlflow_uri={url}", "tracker.wandb_project=two words",
                "tracker.system_every=1s"]
    command = [PROGRAMS / "coordinator", "--config", "configs/digits.toml"]
    return command + [part for setting in settings for part in ("--set", setting)] + list(more)


def spawn(folder, command, **more):
    environment = dict(os.environ, XDG_RUNTIME_DIR=str(folder), MLFLOW_TRACKING_TOKEN=SECRET, **more)
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process, code):
    said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code, (process.returncode, said)
    assert SECRET not in said and base64.b64encode(f"me:{SECRET}".encode()).decode() not in said, said
    return said


def lines(run, name="metrics.jsonl"):
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def state(run, sink):
    return json.loads((run / "tracker" / f"{sink}.json").read_text())


def all_sent(folder, run, server, said):
    """A machine that is busy may take longer than a run's end waits; then the command that is said sends the rest."""
    if "not sent to mlflow" in said:
        command = f"coordinator tracker push {run} --to {server.url} --experiment digits"
        assert f"Send later: {command}" in said, said
        push(folder, run, server.url, 0, "--experiment", "digits")


def is_up_to_date(run):
    """Whether MLflow has all but the last second or two."""
    return state(run, "mlflow")["offsets"]["metrics.jsonl"] > (run / "metrics.jsonl").stat().st_size - 50_000


def number(value):
    """MLflow's database keeps infinities as the largest numbers. A run of the digits has no NaN."""
    value = float(value)
    assert not math.isnan(value)
    return math.copysign(min(abs(value), sys.float_info.max), value)


def check_mlflow(url, run, status, experiment="digits"):
    """Every metric once, with its step and time; params, tags, dataset, files, status."""
    client = MlflowClient(url)
    ids = [client.get_experiment_by_name(experiment).experiment_id]
    record = json.loads((run / "run.json").read_text())
    found = client.search_runs(ids, f"tags.`bonfire.run_id` = '{record['id']}'")
    assert len(found) == 1, f"{len(found)} runs in MLflow, expected one"
    found, info = found[0], found[0].info
    assert (info.status, info.run_name) == (status, run.name), info
    expected = collections.defaultdict(list)
    for line in lines(run) + lines(run, "system.jsonl"):
        expected[line["key"]].append((line["step"], number(line["value"]), line["time"] * 1000))
    assert set(found.data.metrics) == set(expected), set(found.data.metrics) ^ set(expected)
    for key, points in expected.items():
        history = client.get_metric_history(info.run_id, key)
        got = sorted((metric.step, number(metric.value), metric.timestamp) for metric in history)
        points.sort()
        assert [point[:2] for point in got] == [point[:2] for point in points], f"{key}: {got} {points}"
        # Half a millisecond is rounded up or down.
        assert all(abs(there[2] - here[2]) <= 1 for there, here in zip(got, points)), key
    assert found.data.params["model.kind"] == "cnn" and found.data.params["optimizer.learning_rate"] == "0.003"
    tags = found.data.tags
    assert tags["bonfire.final_digest"] == record["final"]["digest"], tags
    assert tags["bonfire.config_digest"] == record["config_digest"], tags
    check_origin(run, record, tags)
    datasets = found.inputs.dataset_inputs
    assert json.loads(datasets[0].dataset.profile)["num_rows"] > 0, datasets
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= set(expected)
    shares = [key for key in expected if key.startswith("workers/") and key.endswith(("/share", "/samples_per_second"))]
    assert len(shares) == 2 * len({member["name"] for member in record["members"]}), shares
    assert [tag.value for tag in datasets[0].tags] == ["training"], datasets
    assert record["dataset"]["digest"].startswith(datasets[0].dataset.digest), datasets
    kept = {file.path for file in client.list_artifacts(info.run_id)}
    assert {"config.toml", "events.json", "run.json"} <= kept, kept
    with tempfile.TemporaryDirectory() as folder:
        got = {name: pathlib.Path(client.download_artifacts(info.run_id, name, folder)).read_bytes() for name in kept if
               name.endswith((".json", ".diff", ".toml"))}
    # Microseconds may be rounded up or down.
    events = [[{**event, "time": round(event["time"], 5)} for event in events]
              for events in (json.loads(got["events.json"]), record["events"])]
    assert events[0] == events[1], events
    assert {name: bytes for name, bytes in got.items() if name != "events.json"} == \
        {name: (run / name).read_bytes() for name in got if name != "events.json"}
    if status == "FINISHED":
        with tempfile.TemporaryDirectory() as folder:
            name = "exports/safetensors/model.safetensors"
            got = pathlib.Path(client.download_artifacts(info.run_id, name, folder))
            assert got.read_bytes() == (run / name).read_bytes()
    assert info.end_time > info.start_time
    return sum(map(len, expected.values()))


def check_origin(run, record, tags):
    """Sources, programs, devices and drivers, of which a machine that is lost may leave nothing else."""
    start = record["provenance"]["starts"][-1]
    git, build = start["git"], start["build"]
    expected = {"mlflow.source.git.commit": git["commit"], "mlflow.source.git.branch": git["branch"],
                "mlflow.source.git.dirty": str(git["dirty"]).lower(), "bonfire.cargo_lock": build["cargo_lock"],
                "bonfire.program.coordinator": build["coordinator"], "bonfire.program.worker": build["worker"],
                "bonfire.drivers": ", ".join(sorted({member["machine"]["driver"] for member in record["members"]})),
                "bonfire.seed": str(record["seed"]),
                "bonfire.checkpoint": str(max(int(path.parent.name[5:]) for path in run.glob("checkpoints/*/manifest.json")))}
    expected = {name: value for name, value in expected.items() if value}
    assert expected.items() <= tags.items(), {name: (value, tags.get(name)) for name, value in expected.items()}
    assert tags["bonfire.devices"].endswith(record["members"][0]["device"]), tags


def single(value):
    """The nearest number of 32 bits, as TensorBoard has it."""
    return number(struct.unpack("f", struct.pack("f", float(value)))[0])


def check_tensorboard(run):
    """TensorBoard's own reader, which checks the checksums."""
    files = list((run / "tensorboard").glob("events.out.tfevents.*"))
    assert len(files) == 1, files
    got, texts = collections.Counter(), collections.defaultdict(list)
    for event in LegacyEventFileLoader(str(files[0])).Load():
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                got[event.step, value.tag, number(value.simple_value)] += 1
            else:
                texts[value.tag].append(value.tensor.string_val[0].decode())
    record = json.loads((run / "run.json").read_text())
    happened = [f"{event['event']}: {event['text']}" for event in record["events"]]
    assert len(texts["events"]) == len(happened), (texts["events"], happened)
    assert all(text.startswith(event) for text, event in zip(texts["events"], happened)), (texts["events"], happened)
    assert f"final_digest = {record['final']['digest']}" in texts["run"][-1], texts["run"]
    expected = collections.Counter(
        (line["step"], line["key"], single(line["value"])) for line in lines(run) + lines(run, "system.jsonl"))
    assert got == expected, (got - expected, expected - got)


class WandbServer(http.server.BaseHTTPRequestHandler):
    """As much of W&B's server as `wandb sync` asks for; it keeps what the run's file stream says."""

    about, streamed, ended, uploaded = [], [], [], []

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        data = {}
        if self.path == "/graphql":
            data = {"data": self.graphql(json.loads(body))}
        elif self.path.startswith("/upload/"):
            self.uploaded.append((self.path.removeprefix("/upload/"), body))
        elif self.path.endswith("/file_stream"):
            stream = json.loads(body)
            for name, part in (stream.get("files") or {}).items():
                self.streamed.append((name, part["content"]))
            if stream.get("complete"):
                self.ended.append(stream["exitcode"])
        text = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = answer

    def graphql(self, asked):
        variables = asked.get("variables") or {}
        if "upsertBucket" in asked["query"]:
            self.about.append(variables)
            project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "somebody"}}
            bucket = {"id": "b", "name": variables["name"], "displayName": variables["displayName"], "project": project,
                      "historyLineCount": 0}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "createRunFiles" in asked["query"]:
            url = f"http://127.0.0.1:{self.server.server_address[1]}/upload/"
            files = [{"name": name, "uploadUrl": url + name} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return {}

    def log_message(self, *_):
        pass


def check_wandb(run, folder):
    """What arrives at a server from the run's folder by W&B's own reader: each row once, the summary, the end."""
    kept = type("Kept", (WandbServer,), {"about": [], "streamed": [], "ended": [], "uploaded": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kept)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (offline,) = (run / "wandb").glob("offline-run-*")
    environment = dict(os.environ, WANDB_BASE_URL=f"http://127.0.0.1:{server.server_address[1]}", WANDB_API_KEY="k" * 40,
                       WANDB_ERROR_REPORTING="false", HOME=str(folder), WANDB_CACHE_DIR=str(folder / "wandb-cache"))
    environment = {name: value for name, value in environment.items() if "proxy" not in name.lower()}
    synced = subprocess.run([SCRIPTS / "wandb", "sync", offline], env=environment, capture_output=True, text=True,
                            cwd=folder, timeout=DEADLINE_S)
    server.shutdown()
    assert synced.returncode == 0, synced.stdout + synced.stderr
    about = kept.about[0]
    assert (about["project"], about["displayName"]) == ("two words", run.name), about
    assert json.loads(about["config"])["model"]["value"]["kind"] == "cnn", about
    rows = [json.loads(line) for name, content in kept.streamed if name == "wandb-history.jsonl" for line in content]
    expected = collections.defaultdict(dict)
    for line in lines(run):
        expected[line["step"]][line["key"]] = number(line["value"])
    got = {row["_step"]: {key: number(value) for key, value in row.items() if key[0] != "_"} for row in rows}
    assert len(rows) == len(expected), f"{len(rows)} rows, {len(expected)} steps"
    assert got == expected
    readings = [json.loads(line) for name, content in kept.streamed if name == "wandb-events.jsonl" for line in content]
    system = {round(line["time"], 3): "system." + line["key"].removeprefix("system/") for line in lines(run, "system.jsonl")}
    assert len(readings) == len(system), (len(readings), len(system))
    assert all(any(key in reading for reading in readings) for key in system.values()), readings[:1]
    summary = [json.loads(content[-1]) for name, content in kept.streamed if name == "wandb-summary.json"][-1]
    newest = {line["key"]: number(line["value"]) for line in lines(run)}
    assert {key: number(summary[key]) for key in newest} == newest, summary
    record = json.loads((run / "run.json").read_text())
    assert (summary["bonfire/final_digest"], summary["bonfire/views"]) == (record["final"]["digest"], record["views"]), summary
    origin = json.loads(kept.about[-1]["config"])["bonfire"]["value"]
    assert origin["git.commit"] == record["git_commit"], origin
    assert origin["program.worker"] == record["members"][0]["machine"]["program"], origin
    uploaded = dict(kept.uploaded)
    for name in ("config.toml", "run.json"):
        assert uploaded[name] == (run / name).read_bytes(), (name, uploaded.keys())
    assert kept.ended[-1:] == [{"completed": 0, "interrupted": 255}[record["status"]]], kept.ended


def hidden(run):
    """No file of the run has a secret in it, plain or as it is sent."""
    coded = base64.b64encode(f"me:{SECRET}".encode())
    for path in run.rglob("*"):
        text = path.read_bytes() if path.is_file() else b""
        assert SECRET.encode() not in text and coded not in text, path


def check_all(server, run, status, folder):
    count = check_mlflow(server.url, run, status)
    check_tensorboard(run)
    check_wandb(run, folder)
    hidden(run)
    return count


def push(folder, run, to, code, *more, **environment):
    command = [PROGRAMS / "coordinator", "tracker", "push", run, "--to", to, *more]
    return finish(spawn(folder, command, **environment), code)


def whole_run(server, folder):
    """A run from its beginning to its end."""
    run = folder / "whole"
    said = finish(spawn(folder, coordinator(folder, "whole", server.url, "--set", "train.epochs=4")), 0)
    assert f"{server.url}/#/experiments/" in said and "wandb sync" in said, said
    all_sent(folder, run, server, said)
    print(f"whole run: {check_all(server, run, 'FINISHED', folder)} metrics everywhere once")


def troubled_run(server, folder):
    """The server is killed and comes back; the coordinator is killed and comes back; the run is interrupted."""
    run = folder / "troubled"
    command = coordinator(folder, "troubled", server.url, "--set", "train.epochs=100000")
    process = spawn(folder, command)
    try:
        until("metrics in MLflow", lambda: state(run, "mlflow")["metrics"] > 20)
        server.kill()
        until("the outage is known", lambda: state(run, "mlflow")["attempts"])
        step = lines(run)[-1]["step"]
        until("training goes on without the server", lambda: lines(run)[-1]["step"] > step + 100)
        server.start()
        until("the server is back", server.ready)
        sent = state(run, "mlflow")["metrics"]
        until("the outage is over", lambda: not state(run, "mlflow")["attempts"] and state(run, "mlflow")["metrics"] > sent)
        process.kill()
        process.wait()
        sent = state(run, "mlflow")["metrics"]
        process = spawn(folder, [*command, "--resume"])
        until("the resumed run is sent", lambda: state(run, "mlflow")["metrics"] > sent + 50 and is_up_to_date(run))
        process.send_signal(signal.SIGINT)
        said = finish(process, 130)
        all_sent(folder, run, server, said)
    finally:
        process.kill()
    print(f"troubled run: {check_all(server, run, 'KILLED', folder)} metrics everywhere once")


def pushed_run(server, folder):
    """A finished run that was sent nowhere: pushed, pushed again, and pushed to where nobody is."""
    run = folder / "digits-1"
    shutil.copytree(FINISHED, run)
    expected = len(lines(run)) + len(lines(run, "system.jsonl"))
    nowhere = f"http://127.0.0.1:{free_port()}"
    waiting = spawn(folder, [PROGRAMS / "coordinator", "tracker", "push", run, "--to", nowhere])
    for sent in (expected, 0):
        said = push(folder, run, server.url, 0, "--experiment", "pushed")
        assert f"{sent} metrics sent" in said, said
    check_mlflow(server.url, run, "FINISHED", "pushed")
    push(folder, run, "tensorboard", 0)
    check_tensorboard(run)
    assert "no run" in push(folder, folder, server.url, 3)
    assert "wandb" in push(folder, run, "elsewhere", 2)
    said = finish(waiting, 4)
    assert nowhere in said and "goes on from there" in said, said
    print(f"pushed run: {expected} metrics in MLflow once, after two pushes")


def certificates(folder):
    """An authority of our own, and what it signed for a server here and for a client."""
    def openssl(*words):
        subprocess.run(["openssl", *map(str, words)], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=authority")
    for name in ("server", "client"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
                "-out", f"{name}.crt", "-extfile", f"{name}.ext")
        (folder / f"{name}.pem").write_text((folder / f"{name}.crt").read_text() + (folder / f"{name}.key").read_text())


class Guard(http.server.BaseHTTPRequestHandler):
    """Stands before an MLflow server as a company's gateway does: TLS, a client's certificate, a name and password."""

    protocol_version = "HTTP/1.1"
    behind, asked = "", "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()

    def answer(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, text = 401, f"<html>{self.headers.get('Authorization')} isn't known here</html>".encode()
        if self.headers.get("Authorization") == self.asked:
            request = urllib.request.Request(self.behind + self.path, body or None, method=self.command)
            request.add_header("Content-Type", self.headers.get("Content-Type") or "application/octet-stream")
            try:
                with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
                    status, text = answer.status, answer.read()
            except urllib.error.HTTPError as why:
                status, text = why.code, why.read()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *_):
        pass


def guarded_run(server, folder):
    """A server behind TLS with an authority of its own, as MLflow's variables have it."""
    certificates(folder)
    run = folder / "guarded" / "digits-1"
    shutil.copytree(FINISHED, run)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    guard = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Guarding", (Guard,), {"behind": server.url}))
    guard.socket = context.wrap_socket(guard.socket, server_side=True)
    guard.handle_error = lambda *_: None
    threading.Thread(target=guard.serve_forever, daemon=True).start()
    url = f"https://127.0.0.1:{guard.server_address[1]}"
    known = {"MLFLOW_TRACKING_CLIENT_CERT_PATH": str(folder / "client.pem")}
    named = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": SECRET}
    distrusting = spawn(folder, [PROGRAMS / "coordinator", "tracker", "push", run, "--to", url], **known, **named)
    trusting = known | {"MLFLOW_TRACKING_SERVER_CERT_PATH": str(folder / "ca.pem")}
    assert "no such file" in push(folder, run, url, 2, MLFLOW_TRACKING_SERVER_CERT_PATH="/absent").lower()
    said = finish(distrusting, 4)
    assert "certificate" in said and "MLFLOW_TRACKING_SERVER_CERT_PATH" in said, said
    assert "401" in push(folder, run, url, 2, **trusting)
    expected = len(lines(run)) + len(lines(run, "system.jsonl"))
    said = push(folder, run, url, 0, "--experiment", "guarded", **trusting, **named)
    assert f"{expected} metrics sent" in said, said
    check_mlflow(server.url, run, "FINISHED", "guarded")
    bundle = known | named | {"REQUESTS_CA_BUNDLE": str(folder / "ca.pem")}
    assert "0 metrics sent" in push(folder, run, url, 0, "--experiment", "guarded", **bundle)
    in_url = url.replace("https://", f"https://me:{SECRET}@")
    assert "0 metrics sent" in push(folder, run, in_url, 0, "--experiment", "guarded", **trusting)
    guard.shutdown()
    hidden(run)
    print(f"guarded run: {expected} metrics through TLS with both sides' certificates and a password")


def refusals(server, folder):
    """What the configuration gets wrong is said before a folder is made."""
    for settings, expected in [(["tracker.mlflow_uri=ftp://x"], "tracker.mlflow_uri"),
                               ([f"tracker.mlflow_uri=http://me:{SECRET}@x"], "MLFLOW_TRACKING_PASSWORD"),
                               (['tracker.sinks=["mlflw"]'], "mlflow")]:
        command = coordinator(folder, "never", server.url, *[part for text in settings for part in ("--set", text)])
        said = finish(spawn(folder, command), 2)
        assert expected in said, said
    assert not (folder / "never").exists()


def main():
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        server = Server(folder)
        server.start()
        try:
            refusals(server, folder)
            until("the server", server.ready)
            # Its first answers take seconds.
            MlflowClient(server.url).search_experiments()
            whole_run(server, folder)
            troubled_run(server, folder)
            pushed_run(server, folder)
            guarded_run(server, folder)
        finally:
            server.kill()
    print(f"check_sinks: good after {time.monotonic() - began:.0f} s")


main()
