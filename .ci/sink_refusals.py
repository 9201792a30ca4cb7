"""For check_sinks.py: a server behind TLS and a password, and whatever refuses a run: each says what is wrong, and the way out."""

import base64
import http.server
import os
import shutil
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request

from sink_readers import DEADLINE_S, check_mlflow, lines
from sinks_kit import FINISHED, PROGRAMS, SECRET, Server, coordinator, finish, hidden, push, spawn


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
