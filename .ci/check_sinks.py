"""The sinks in the hands of what reads them: a real MLflow server that is killed in mid-run, W&B's own `wandb sync`
against a server in this process, and TensorBoard's own reader. Every metric of a run's metrics.jsonl is in each of
them once, through an outage, a coordinator that is killed, and `coordinator tracker push`.

    python check_sinks.py BIN_DIR RUN_DIR

RUN_DIR is a finished run of the digits that was sent nowhere. Needs mlflow, wandb and tensorboard.
"""

import base64
import contextlib
import http.server
import json
import math
import os
import pathlib
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

from sink_readers import (DEADLINE_S, SCRIPTS, MlflowClient, check_mlflow, check_tensorboard, check_wandb, lines, read_tensorboard,
                          sync_wandb, wandb_rows)

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = pathlib.Path(sys.argv[1]).resolve()
FINISHED = pathlib.Path(sys.argv[2]).resolve()
# Drawn anew, since the diff of a checkout with changes is kept with a run, and this file may be among them.
SECRET = secrets.token_hex(16)
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

    shared = None

    def __init__(self, folder):
        self.folder, self.port, self.process = folder, free_port(), None
        self.url = Server.shared = f"http://127.0.0.1:{self.port}"

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
    said = finish(spawn(folder, coordinator(folder, "whole", server.url, "--set", "train.epochs=40")), 0)
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
        # One line: nothing is left out, and nothing is said to be.
        assert f"{sent} metrics sent" in said and said.count("\n") == 1, said
    check_mlflow(server.url, run, "FINISHED", "pushed")
    push(folder, run, "tensorboard", 0)
    check_tensorboard(run)
    assert "no run" in push(folder, folder, server.url, 3)
    assert "wandb" in push(folder, run, "elsewhere", 2)
    said = finish(waiting, 4)
    assert nowhere in said and "goes on from there" in said, said
    print(f"pushed run: {expected} metrics in MLflow once, after two pushes")


NAN, LONG, ODD = "odd/nan", "n" * 400, "odd/a?b \u00e9\U0001f525"


def odd_run(server, folder):
    """What isn't finite, names that are too long or have what MLflow doesn't take, lines that are none: each tracker gets what it takes,
    and what is passed over is named."""
    run = folder / "odd" / "digits-1"
    shutil.copytree(FINISHED, run)
    step = lines(run)[-1]["step"] + 1
    odd = [(NAN, "NaN"), ("odd/up", "Infinity"), ("odd/down", "-Infinity"), ("odd/huge", 1e300), ("odd/tiny", 5e-324), (LONG, 1.5), (ODD, 2.5)]
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b"not a metric\n\xff\xfe\n")
        for key, value in odd:
            file.write(json.dumps({"step": step, "epoch": 9.0, "samples": 9, "time": 1.79e9, "key": key, "value": value}).encode() + b"\n")
        file.write(b'{"step":7,"key":"torn')
    for to, more in [(server.url, ["--experiment", "odd"]), ("tensorboard", []), ("wandb", [])]:
        said = push(folder, run, to, 0, *more)
        assert said.count("passed over") == 2 and "isn't sent" not in said, said
    client = MlflowClient(server.url)
    (found,) = client.search_runs([client.get_experiment_by_name("odd").experiment_id])
    there = found.data.metrics
    assert math.isnan(there[NAN]), there[NAN]
    assert (there["odd/up"], there["odd/down"]) == (sys.float_info.max, -sys.float_info.max), there
    assert (there["odd/huge"], there["odd/tiny"]) == (1e300, 5e-324), there
    (long,) = [key for key in there if key.startswith("n" * 200)]
    (odd_key,) = [key for key in there if key.startswith("odd/a_b")]
    assert len(long) == 250 and (there[long], there[odd_key]) == (1.5, 2.5), there
    scalars, _ = read_tensorboard(run)
    assert scalars[step, LONG, 1.5] == 1 and scalars[step, ODD, 2.5] == 1, list(scalars)[-9:]
    (row,) = [row for row in wandb_rows(sync_wandb(run, folder)) if row["_step"] == step]
    assert (row[LONG], row[ODD], row["odd/huge"]) == (1.5, 2.5, 1e300) and math.isnan(float(row[NAN])), row
    assert (float(row["odd/up"]), float(row["odd/down"])) == (math.inf, -math.inf), row
    embedded(run, step)
    print("odd run: numbers that aren't finite, names that are too long and lines that are none, in each tracker as far as it takes them")


def embedded(run, step):
    """The same in the embedded tracker, for MLflow's client: nothing of it is cut."""
    command = [PROGRAMS / "coordinator", "tracker", "serve", "--dir", run.parent, "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        client = MlflowClient(process.stdout.readline().split(" at ")[1].split(";")[0].strip())
        (found,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
        there = found.data.metrics
        assert math.isnan(there[NAN]) and (there["odd/up"], there["odd/down"]) == (math.inf, -math.inf), there
        assert (there[LONG], there[ODD], there["odd/huge"], there["odd/tiny"]) == (1.5, 2.5, 1e300, 5e-324), there
        assert [metric.step for metric in client.get_metric_history(found.info.run_id, LONG)] == [step]
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE_S)
    assert "2 lines say nothing and are passed over" in said, said


class Answering(http.server.BaseHTTPRequestHandler):
    """Gives every request the same answer."""

    protocol_version, given, more = "HTTP/1.1", (200, b""), {}

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, text = self.given
        self.send_response(status)
        for name, value in (self.more | {"Content-Length": str(len(text))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *_):
        pass


def refused_pushes(folder):
    """What a person does wrong, and what is said: the thing, and the way out."""
    run = folder / "refused" / "digits-1"
    shutil.copytree(FINISHED, run)
    kept = type("Refusing", (Answering,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kept)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    page = b"<html><title>Welcome</title></html>"
    for status, text, more, expected in [
        (401, page, {}, ["401", "MLFLOW_TRACKING_TOKEN"]), (403, b"{}", {}, ["403", "MLFLOW_TRACKING_USERNAME"]),
        (404, page, {}, ["404", "is this the address of an MLflow server?"]), (200, page, {}, ["no JSON", "is this the address of an MLflow server?"]),
        (302, b"", {"Location": "https://login.example/?state=s"}, ["https://login.example/", "set that address"]),
    ]:
        kept.given, kept.more = (status, text), more
        said = push(folder, run, url, 2)
        assert all(part in said for part in [url, *expected]), said
    kept.given, kept.more = (429, b""), {"Retry-After": "300"}
    began = time.monotonic()
    said = push(folder, run, url, 4)
    assert "300 s" in said and "goes on from there" in said and time.monotonic() - began < 10, said
    server.shutdown()
    both = {"MLFLOW_EXPERIMENT_NAME": "pushed", "MLFLOW_EXPERIMENT_ID": "987654"}
    for to, where, code, environment, expected in [
        ("ftp://127.0.0.1", run, 2, {}, ["ftp://127.0.0.1", "http://"]), ("elsewhere", run, 2, {}, ["elsewhere", "wandb", "tensorboard"]),
        (url, folder / "none", 3, {}, ["none", "no such folder"]), (url, run / "run.json", 3, {}, ["run.json", f"give the folder: {run}"]),
        (url, run.parent, 3, {}, ["holds runs", str(run)]), (Server.shared, run, 2, both, ["MLFLOW_EXPERIMENT_NAME", "987654", "unset one"]),
    ]:
        said = push(folder, where, to, code, **environment)
        assert all(part in said for part in expected), said
    somebody_elses(folder, run)
    print("refused pushes: each says what and what to do")


def somebody_elses(folder, run):
    """A run that one may read and not write into."""
    for path in [run, *run.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    shutil.rmtree(run / "tracker", ignore_errors=True)
    # root may write everywhere, so somebody else does it, who must reach the folders above, too.
    nobody = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
    folder.chmod(0o755)
    program = folder / "coordinator"
    shutil.copy(PROGRAMS / "coordinator", program)
    command = [program, "tracker", "push", run, "--to", "tensorboard"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=DEADLINE_S, **nobody)
    said = done.stdout + done.stderr
    assert done.returncode == 2, (done.returncode, said)
    assert str(run / "tracker") in said and "may write to its folder" in said, said
    for path in [run, *run.rglob("*")]:
        path.chmod(0o755)


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
            odd_run(server, folder)
            refused_pushes(folder)
        finally:
            server.kill()
    print(f"check_sinks: good after {time.monotonic() - began:.0f} s")


main()
