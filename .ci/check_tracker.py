"""The embedded tracker in the hands of MLflow's own Python client, before and after its index is deleted.

    python check_tracker.py RUN_DIR [COORDINATOR]

RUN_DIR is a finished run of the digits. Needs mlflow or mlflow-skinny.
"""

import json
import math
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

finished = pathlib.Path(sys.argv[1]).resolve()
coordinator = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else "target/release/coordinator").resolve()
DEADLINE = 30


def start(runs, *more, listen="127.0.0.1:0"):
    """The tracker over a folder of runs, and its address."""
    command = [coordinator, "tracker", "serve", "--dir", runs, "--listen", listen, *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert " at http://" in line, line
    return process, line.split(" at ")[1].split(";")[0].strip()


def end(process):
    """Ctrl-C ends it at once."""
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE) == 0


def refused(code, what, *arguments, **more):
    """MLflow's error code of what must not succeed."""
    try:
        what(*arguments, **more)
    except MlflowException as error:
        assert error.error_code == code, (error.error_code, str(error))
        return str(error)
    raise AssertionError(f"{what} was not refused")


def get(url, **headers):
    """Status and body of a plain request."""
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def write(client, folder):
    """Everything that a client writes, once; what it should find of it afterwards."""
    experiment = client.create_experiment("mine", tags={"team": "vision"})
    refused("RESOURCE_ALREADY_EXISTS", client.create_experiment, "mine")
    refused("RESOURCE_DOES_NOT_EXIST", client.get_experiment, "404")
    runs = [client.create_run(experiment, run_name=f"run {n}", tags={"n": str(n)}).info.run_id for n in range(5)]
    values = [0.1 + 0.2, 1e-320, -0.0, math.nan, math.inf, -math.inf, 5e300, 1 / 3]
    for n, run in enumerate(runs):
        metrics = [Metric("odd/values", value, 1000 + step, step) for step, value in enumerate(values)]
        metrics.append(Metric("score", n / 10, 5000, 1))
        params = [Param("lr", str(10**-n)), Param("kind", "cnn" if n % 2 else "mlp")]
        client.log_batch(run, metrics, params, [RunTag("a b", "c d")])
        client.log_batch(run, metrics, params, [])  # A replay after an answer that was lost.
    client.log_metric(runs[0], "single", 7, timestamp=1, step=3)
    client.log_param(runs[0], "one more", "x")
    client.set_tag(runs[0], "note", "hello")
    client.set_tag(runs[0], "gone", "soon")
    client.delete_tag(runs[0], "gone")
    refused("INVALID_PARAMETER_VALUE", client.log_param, runs[0], "lr", "another")
    refused("INVALID_PARAMETER_VALUE", client.set_tag, runs[0], "long", "x" * 8001)
    big = [Metric("many", step, 1, step) for step in range(1000)]
    client.log_batch(runs[0], big)
    over = [{"key": "m", "value": 1, "timestamp": 1, "step": step} for step in range(1001)]
    body = json.dumps({"run_id": runs[0], "metrics": over}).encode()
    status, answer = post(client, "runs/log-batch", body)
    assert status == 400 and json.loads(answer)["error_code"] == "INVALID_PARAMETER_VALUE", answer
    dataset = Dataset("digits", "d0.dir", "dvc", "{}", "{}", '{"num_rows": 5}')
    client.log_inputs(runs[1], [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    for run in runs[:3]:
        client.set_terminated(run, "FINISHED", end_time=9000)
    client.set_terminated(runs[3], "FAILED")
    client.delete_run(runs[4])
    refused("INVALID_PARAMETER_VALUE", client.log_metric, runs[4], "x", 1)

    tree = folder / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "a.txt").write_text("a\n")
    (tree / "sub" / "b ü.bin").write_bytes(os.urandom(3_000_000))
    (tree / "sub" / "empty").write_bytes(b"")
    client.log_artifacts(runs[0], tree, "things")
    client.log_text(runs[0], "again", "things/a.txt")

    model = client.create_logged_model(experiment, name="net", source_run_id=runs[0], params={"p": "1"}, tags={"t": "u"})
    client.log_model_artifacts(model.model_id, tree)
    client.finalize_logged_model(model.model_id, "READY")
    client.set_logged_model_tags(model.model_id, {"more": "tags"})
    client.create_registered_model("digits", tags={"x": "y"}, description="a model")
    refused("RESOURCE_ALREADY_EXISTS", client.create_registered_model, "digits")
    for source in [f"models:/{model.model_id}", f"runs:/{runs[0]}/things"]:
        client.create_model_version("digits", source, run_id=runs[0], model_id=model.model_id)
    client.set_registered_model_alias("digits", "champion", "1")
    client.set_registered_model_alias("digits", "challenger", "2")
    client.set_registered_model_alias("digits", "champion", "2")
    client.delete_registered_model_alias("digits", "challenger")
    client.set_model_version_tag("digits", "1", "gate", "passed")
    client.create_registered_model("other")
    client.rename_registered_model("other", "renamed")
    return experiment, runs, values, model.model_id, tree


def post(client, path, body, method="POST"):
    """A request as no client sends it."""
    url = f"{client.tracking_uri}/api/2.0/mlflow/{path}"
    request = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def same(a, b):
    """Equal to the last bit, NaN among them; SQLite doesn't keep the sign of zero."""
    return math.isnan(a) and math.isnan(b) or a == b


def check(client, experiment, runs, values, model, tree):
    """Everything that was written is found."""
    found = client.get_experiment_by_name("mine")
    assert found.experiment_id == experiment and found.tags["team"] == "vision", found
    names = {e.name for e in client.search_experiments(filter_string="name LIKE 'mi%'")}
    assert names == {"mine"}, names
    assert {"mine", "Default", "digits"} <= {e.name for e in client.search_experiments()}

    history = client.get_metric_history(runs[1], "odd/values")
    assert [m.step for m in history] == list(range(len(values))), "once each"
    assert all(same(m.value, value) for m, value in zip(history, values)), history
    assert len(client.get_metric_history(runs[0], "many")) == 1000
    run = client.get_run(runs[0])
    assert run.info.status == "FINISHED" and run.info.end_time == 9000 and run.info.run_name == "run 0"
    assert run.data.metrics["single"] == 7 and run.data.params["one more"] == "x"
    assert run.data.tags["note"] == "hello" and "gone" not in run.data.tags
    assert client.get_run(runs[3]).info.status == "FAILED"
    inputs = client.get_run(runs[1]).inputs.dataset_inputs
    assert inputs[0].dataset.digest == "d0.dir" and inputs[0].tags[0].value == "training", inputs

    def search(text, order=None, view=ViewType.ACTIVE_ONLY):
        found = client.search_runs([experiment], text, view, order_by=order)
        return [runs.index(run.info.run_id) for run in found]

    assert search("", ["metrics.score DESC"]) == [3, 2, 1, 0]
    assert search("metrics.score >= 0.2", ["metrics.score"]) == [2, 3]
    assert search("params.kind = 'cnn' and status = 'FINISHED'") == [1]
    assert search("tags.`a b` LIKE 'c%' and tags.n IN ('1', '2')", ["params.lr"]) == [2, 1]
    assert search('attributes.run_name ILIKE "RUN 2"') == [2]
    assert search("dataset.name = 'digits'") == [1]
    assert search("", view=ViewType.DELETED_ONLY) == [4]
    assert "character 1" in refused("INVALID_PARAMETER_VALUE", search, "colour.x = 'red'")
    pages, token = [], None
    while True:
        page = client.search_runs([experiment], order_by=["metrics.score"], max_results=3, page_token=token)
        pages += [runs.index(run.info.run_id) for run in page]
        token = page.token
        if not token:
            break
    assert pages == [0, 1, 2, 3], pages

    assert [f.path for f in client.list_artifacts(runs[0])] == ["things"]
    assert [f.path for f in client.list_artifacts(runs[0], "things")] == ["things/a.txt", "things/sub"]
    with tempfile.TemporaryDirectory() as folder:
        got = pathlib.Path(client.download_artifacts(runs[0], "things", folder))
        assert (got / "a.txt").read_text() == "again"
        assert (got / "sub" / "b ü.bin").read_bytes() == (tree / "sub" / "b ü.bin").read_bytes()
        assert (got / "sub" / "empty").read_bytes() == b""

    logged = client.get_logged_model(model)
    assert logged.status.name == "READY" and logged.tags["more"] == "tags" and logged.params == {"p": "1"}
    assert [m.model_id for m in client.search_logged_models([experiment], "name = 'net'")] == [model]
    assert {f.path for f in client.list_logged_model_artifacts(model)} == {"a.txt", "sub"}
    champion = client.get_model_version_by_alias("digits", "champion")
    assert champion.version == "2" and champion.aliases == ["champion"], champion
    refused("INVALID_PARAMETER_VALUE", client.get_model_version_by_alias, "digits", "challenger")
    versions = client.search_model_versions("name = 'digits'", order_by=["version_number ASC"])
    assert [v.version for v in versions] == ["1", "2"] and versions[0].tags == {"gate": "passed"}
    assert client.get_model_version_download_uri("digits", "1").endswith(f"models/{model}/artifacts")
    assert {m.name for m in client.search_registered_models()} == {"digits", "renamed"}
    with tempfile.TemporaryDirectory() as folder:
        got = mlflow.artifacts.download_artifacts("models:/digits/1", dst_path=folder)
        assert (pathlib.Path(got) / "a.txt").read_text() == "a\n", "a registered model is downloaded by its name"


def check_bonfire(client, root):
    """The finished run of Bonfire's: found, whole, read-only."""
    experiment = client.get_experiment_by_name("digits")
    found = client.search_runs([experiment.experiment_id], "metrics.`validation/accuracy` > 0.9 and params.model.kind = 'cnn'")
    assert len(found) == 1, found
    run = found[0]
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    loss = [line["value"] for line in lines if line["key"] == "train/loss"]
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [m.value for m in history] == loss and len(loss) > 40
    record = json.loads((finished / "run.json").read_text())
    assert run.info.status == "FINISHED" and run.info.run_name == finished.name
    assert run.data.metrics["validation/accuracy"] == record["final"]["metrics"]["validation/accuracy"]
    assert run.data.tags["bonfire.digest"] == record["final"]["digest"]
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.digest == record["dataset"]["digest"]
    assert json.loads(data.dataset.profile)["num_rows"] > 0 and json.loads(data.dataset.source)["uri"], data
    for what, *arguments in [(client.log_metric, "x", 1), (client.log_param, "x", "1"), (client.delete_run,),
                             (client.set_tag, "bonfire.digest", "mine"), (client.log_text, "x", "x.txt")]:
        try:
            what(run.info.run_id, *arguments)
        except Exception as error:
            assert "403" in str(error) or getattr(error, "error_code", "") == "PERMISSION_DENIED", error
        else:
            raise AssertionError(f"{what} changed a run of Bonfire's")
    client.set_tag(run.info.run_id, "mlflow.note.content", "a note")
    assert client.get_run(run.info.run_id).data.tags["mlflow.note.content"] == "a note"
    shown = {f.path for f in client.list_artifacts(run.info.run_id)}
    assert {"run.json", "exports", "checkpoints"} <= shown and "token" not in shown, shown
    with tempfile.TemporaryDirectory() as folder:
        got = client.download_artifacts(run.info.run_id, "exports/safetensors/model.safetensors", folder)
        exported = finished / "exports/safetensors/model.safetensors"
        assert pathlib.Path(got).read_bytes() == exported.read_bytes()
    files = f"{client.tracking_uri}/api/2.0/mlflow-artifacts/artifacts/{experiment.experiment_id}/{run.info.run_id}/artifacts"
    for path in ["token", "../token", "..%2ftoken", "exports/../token", "exports/..%2f..%2ftoken", "%2e%2e/token"]:
        status, body = get(f"{files}/{path}")
        assert status in (400, 404), (path, status)
        assert (finished / "token").read_bytes().strip() not in body, path
    status, body = get(f"{client.tracking_uri}/api/runs/{run.info.run_id}/points?key=train/loss&max=20")
    series = json.loads(body)["series"][0]
    assert status == 200 and series["count"] == len(loss) and len(series["step"]) <= 20
    assert min(series["value"]) == min(loss) and max(series["value"]) == max(loss)
    with urllib.request.urlopen(f"{client.tracking_uri}/api/runs/{run.info.run_id}/stream", timeout=DEADLINE) as stream:
        assert stream.readline() == b"event: run\n"
        copied = root / finished.name / "metrics.jsonl"
        line = {**lines[-1], "key": "train/loss", "step": 100_000, "value": 0.5}
        with open(copied, "a") as file:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
        name, data = "", {}
        while name != "points":
            line = stream.readline().decode()
            name = line.removeprefix("event: ").strip() if line.startswith("event: ") else name
        data = json.loads(stream.readline().decode().removeprefix("data: "))
        assert data["series"][0]["step"] == [100_000] and data["series"][0]["value"] == [0.5], data


def check_token(runs, folder):
    """With a token nothing is answered without it."""
    token = secrets.token_hex(32)
    (folder / "token").write_text(token + "\n")
    process, url = start(runs, "--token-file", folder / "token")
    try:
        assert get(f"{url}/api/runs")[0] == 401
        assert get(f"{url}/api/runs", Authorization=f"Bearer {token[:-1]}0")[0] in (401,) or token.endswith("0")
        assert get(f"{url}/api/runs", Authorization=f"Bearer {token}")[0] == 200
        jar = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        jar.open(f"{url}/api/experiments?token={token}", timeout=DEADLINE).read()
        with jar.open(f"{url}/api/runs", timeout=DEADLINE) as answer:
            assert answer.status == 200, "the cookie is enough"
        os.environ["MLFLOW_TRACKING_TOKEN"] = token
        assert MlflowClient(url).search_experiments()
        del os.environ["MLFLOW_TRACKING_TOKEN"]
    finally:
        end(process)
    bare = subprocess.run([coordinator, "tracker", "serve", "--dir", runs, "--listen", "0.0.0.0:0"],
                          capture_output=True, text=True, timeout=DEADLINE)
    assert bare.returncode == 2 and "--token-file" in bare.stderr, bare


def check_origin(url):
    """Without a token no page from elsewhere gets an answer."""
    assert get(f"{url}/api/runs", Host="example.org")[0] == 403
    assert get(f"{url}/api/runs", Origin="http://example.org")[0] == 403
    assert get(f"{url}/api/runs", Origin=url)[0] == 200


with tempfile.TemporaryDirectory() as temporary:
    temporary = pathlib.Path(temporary)
    runs = temporary / "runs"
    shutil.copytree(finished, runs / finished.name)
    process, url = start(runs)
    try:
        client = MlflowClient(url)
        mlflow.set_tracking_uri(url)
        check_origin(url)
        written = write(client, temporary)
        check(client, *written)
        # While it is open, and while it isn't: the folders hold it all.
        for path in (runs / ".tracker").glob("index.sqlite*"):
            path.unlink()
        time.sleep(0.5)
        check(client, *written)
        end(process)
        for path in (runs / ".tracker").glob("index.sqlite*"):
            path.unlink()
        (runs / ".tracker" / "index.sqlite").write_bytes(b"no database" * 1000)
        # The same port: clients keep the address of artifacts.
        process, _ = start(runs, listen=url.removeprefix("http://"))
        check(client, *written)
        check_bonfire(client, runs)
        with mlflow.start_run(run_name="fluent"):
            mlflow.log_params({"a": 1})
            mlflow.log_metrics({"m": 2.5}, step=1)
        assert mlflow.last_active_run().info.status == "FINISHED"
    finally:
        if process.poll() is None:
            end(process)
    check_token(runs, temporary)
print("the embedded tracker answers MLflow's client, and a rebuilt index says the same")
