"""The sinks in the hands of what reads them: a real MLflow server that is killed in mid-run, W&B's own `wandb sync`
against a server in this process, and TensorBoard's own reader. Every metric of a run's metrics.jsonl is in each of
them once, through an outage, a coordinator that is killed, and `coordinator tracker push`.

    python check_sinks.py BIN_DIR RUN_DIR

RUN_DIR is a finished run of the digits that was sent nowhere. Needs mlflow, wandb and tensorboard.
"""

import json
import math
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from sink_readers import (DEADLINE_S, MlflowClient, check_mlflow, check_tensorboard, check_wandb, lines, read_tensorboard, sync_wandb,
                          wandb_rows)
from sink_refusals import guarded_run, refusals, refused_pushes
from sinks_kit import FINISHED, PROGRAMS, Server, coordinator, finish, free_port, hidden, push, spawn, state, until


def all_sent(folder, run, server, said):
    """A machine that is busy may take longer than a run's end waits; then the command that is said sends the rest."""
    if "not sent to mlflow" in said:
        command = f"coordinator tracker push {run} --to {server.url} --experiment digits"
        assert f"Send later: {command}" in said, said
        push(folder, run, server.url, 0, "--experiment", "digits")


def check_all(server, run, status, folder):
    count = check_mlflow(server.url, run, status)
    check_tensorboard(run)
    check_wandb(run, folder)
    hidden(run)
    return count


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
        until("the resumed run is sent", lambda: state(run, "mlflow")["metrics"] > sent + 50)
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
