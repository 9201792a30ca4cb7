"""For check_sinks.py: what a run's folder says, against what MLflow's server, `wandb sync` and TensorBoard's reader make of it."""

import collections
import gzip
import http.server
import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import threading

os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"

from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

SCRIPTS = pathlib.Path(sys.executable).parent
DEADLINE_S = 100


def lines(run, name="metrics.jsonl"):
    """The whole ones: of a run that goes on the last may be half written yet."""
    whole, _, _ = (run / name).read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def number(value):
    """MLflow's database keeps infinities as the largest numbers; NaN, which is unlike itself, is its name here."""
    value = float(value)
    return "NaN" if math.isnan(value) else math.copysign(min(abs(value), sys.float_info.max), value)


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


def read_tensorboard(run):
    """Scalars and texts by TensorBoard's own reader, which checks the checksums."""
    files = list((run / "tensorboard").glob("events.out.tfevents.*"))
    assert len(files) == 1, files
    got, texts = collections.Counter(), collections.defaultdict(list)
    for event in LegacyEventFileLoader(str(files[0])).Load():
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                got[event.step, value.tag, number(value.simple_value)] += 1
            else:
                texts[value.tag].append(value.tensor.string_val[0].decode())
    return got, texts


def check_tensorboard(run):
    """Every metric once, and what happened."""
    got, texts = read_tensorboard(run)
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


def sync_wandb(run, folder):
    """What arrives at a server from the run's folder by W&B's own reader."""
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
    return kept


def wandb_rows(kept):
    """The rows of history, as they were streamed."""
    return [json.loads(line) for name, content in kept.streamed if name == "wandb-history.jsonl" for line in content]


def check_wandb(run, folder):
    """Each row once, the summary, the end."""
    kept = sync_wandb(run, folder)
    about = kept.about[0]
    assert (about["project"], about["displayName"]) == ("two words", run.name), about
    assert json.loads(about["config"])["model"]["value"]["kind"] == "cnn", about
    rows = wandb_rows(kept)
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
    assert kept.about[-1]["commit"] == record["git_commit"], kept.about[-1]
    origin = json.loads(kept.about[-1]["config"])["bonfire"]["value"]
    assert origin["git.commit"] == record["git_commit"], origin
    assert origin["program.worker"] == record["members"][0]["machine"]["program"], origin
    uploaded = dict(kept.uploaded)
    for name in ("config.toml", "run.json"):
        assert uploaded[name] == (run / name).read_bytes(), (name, uploaded.keys())
    assert kept.ended[-1:] == [{"completed": 0, "interrupted": 255}[record["status"]]], kept.ended
