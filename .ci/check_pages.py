"""The tracker's web pages in a headless Chromium: with real runs, one of them going on, and with very many.

    python check_pages.py [COORDINATOR [PICTURES]]

COORDINATOR has its worker beside it. With PICTURES, a folder, every page is kept there as PNG. Needs websocket-client and
Chromium. Any console error, failed request or request to another host fails it.
"""

import json
import math
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
import urllib.request

from chromium import Chromium, wait_for
from pages_kit import DEADLINE, HELPERS, Served, end, looks, quiet, record, still, tabbed, train
from pages_ends import check_ended, check_returning
from pages_trouble import AWAY, check_away, check_hostile, check_token

# Of what a person waits for; what was measured is printed, and this says only that nothing is broken.
OPENS_IN_S = 5
RUNS, POINTS, KEYS = 1_000, 1_000_000, ["train/loss", "train/accuracy", "train/gradient_norm", "train/learning_rate"]
# One step up, one down, among a quarter of a million: no thinning may lose them.
EXTREMES = {("long", 123_457): 77.25, ("long", 123_459): -55.5}


def check_list(page, url):
    """All runs: found by name and by filter, chosen and opened by keys alone."""
    page.open(url, "document.querySelectorAll('tbody tr').length >= 2")
    names = page.js("check.column('run')")
    assert set(names) >= {"digits-1", "digits-2"}, names
    assert page.js("check.cell('digits-1', 'validation accuracy')") != "–"
    assert page.js("check.cell('digits-1', 'status')") == "completed"
    page.key("/")
    for typed, found in [("digits-2", ["digits-2"]), ("params.`optimizer.learning_rate` = '0.003'", ["digits-1"]),
                         ("metrics.`validation/loss` < 0", [])]:
        page.js("document.activeElement.select()")
        page.type(typed)
        page.wait(f"JSON.stringify(check.column('run')) === {json.dumps(json.dumps(found, separators=(',', ':')))}")
    quiet(page)
    page.js("document.activeElement.select()")
    page.type("metrics.x >")
    said = page.wait("document.querySelector('.error')?.textContent")
    assert "character" in said, said
    # A browser notes each refused request itself.
    quiet(page, but=["400"])
    page.js("document.activeElement.select()")
    page.key("Delete")
    page.js("document.activeElement.value = ''; document.activeElement.dispatchEvent(new Event('input'))")
    page.wait("document.querySelectorAll('tbody tr').length >= 2 && !document.querySelector('.error')")
    page.key("Escape")
    looks(page, "runs")
    tabbed(page, [".brand", "#help", "input[type=search]", "select", "th button", "tbody input", "tbody a"])
    page.js("document.querySelector('th:nth-child(2) button').click()")
    page.wait("document.querySelector('th[aria-sort]') !== null")
    page.js("document.activeElement.blur()")
    for key in ["j", "x", "j", "x", "c"]:
        page.key(key)
    page.wait("location.hash.startsWith('#/compare')")
    quiet(page)


def check_compare(page, url, ids):
    """Both runs' curves over each other, and what differs."""
    page.open(f"{url}/#/compare?ids={','.join(ids)}", "check.inks('validation/loss').every((count) => count > 20)")
    page.wait("check.inks('train/loss').every((count) => count > 20)")
    keys = page.js("check.rows('Configuration')")
    assert "optimizer.learning_rate" in keys and "model.kind" not in keys, keys
    page.js("document.querySelector('input[type=checkbox]').click()")
    page.wait("check.rows('Configuration').includes('model.kind')")
    assert "train/loss" in page.js("check.rows('Last values')") and page.js("document.querySelectorAll('.best').length") > 0
    page.js("document.querySelector('input[type=checkbox]').click()")
    last = "[...check.section('Last values').querySelectorAll('tbody tr')].filter((row) => row.checkVisibility()).map((row) => row.firstChild.textContent)"
    assert "train/loss" in page.js(last) and not any("/recall/" in key for key in page.js(last)), page.js(last)
    page.js("check.section('Last values').querySelector('summary').click()")
    page.wait(f"{last}.includes('validation/recall/3')")
    page.js("check.section('Last values').querySelector('summary').click()")
    page.js("document.querySelector('details summary').click()")
    page.wait("check.inks('validation/recall/3').every((count) => count > 20)")
    page.js("document.querySelector('details summary').click()")
    looks(page, "compare")
    tabbed(page, ["select", "input[type=range]", "input[type=search]", "canvas", "summary", "input[type=checkbox]"])
    quiet(page)


def whole(page, panel):
    """Nothing of a panel has to be scrolled sideways."""
    wide = f"[...check.section('{panel}').querySelectorAll('.tall, .scroll')].filter((box) => box.scrollWidth > box.clientWidth + 1).length"
    assert page.js(wide) == 0, page.js(f"check.section('{panel}').innerText")


def check_five(page, url, runs):
    """Five runs, one of which failed before it had measured anything."""
    names = ["digits-1", "digits-2", *(f"again-{number}" for number in range(3))]
    for name in names[2:]:
        shutil.copytree(runs / "digits-1", runs / name)
    failed = runs / "again-2"
    for name in ["metrics.jsonl", "system.jsonl"]:
        (failed / name).unlink()
    own = record(runs, "again-2")
    for member in own["members"]:
        member["device"] = "vulkan:0, NVIDIA GeForce RTX 4090 Laptop GPU (discrete)"
    # The copy's time is another run's.
    own.pop("active")
    own.update(status="failed", message="worker-0: model.hidden[1] = 0: a layer needs at least one unit", events=own["events"][:1])
    (failed / "run.json").write_text(json.dumps(own))
    page.open(url, "document.querySelectorAll('tbody tr').length === 5")
    ids = page.js("[...document.querySelectorAll('tbody tr')].map((row) => row.dataset.id)")
    page.open(f"{url}/#/compare?ids={','.join(ids)}", "document.querySelectorAll('.chart').length > 3 && check.chart('train/loss')?.dataset.points.split(' ').length === 4")
    looks(page, "compare-five")
    identity = page.js("[...document.querySelectorAll('.head a')].find((link) => link.textContent === 'again-2').hash")
    page.open(f"{url}/{identity}", "document.querySelector('.slot .error')?.textContent.includes('model.hidden')")
    assert page.js("check.fact('took')") is None, page.js("check.fact('took')")
    assert page.js("document.querySelector('.look').offsetParent") is None, "there is nothing to smooth"
    whole(page, "Who takes part")
    looks(page, "failed")
    for name in names[2:]:
        shutil.rmtree(runs / name)


def register(url, run):
    """A registered model of two versions, the first of this run, as MLflow's client makes it."""
    def post(path, **body):
        request = urllib.request.Request(f"{url}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=DEADLINE).read()

    post("registered-models/create", name="digits of hands", description="Which digit a hand has written.\nThe second line.")
    post("model-versions/create", name="digits of hands", source=f"mlflow-artifacts:/1/{run}/artifacts/exports", run_id=run,
         description="the first that was good enough")
    post("model-versions/create", name="digits of hands", source="models:/m-0123456789abcdef", run_id="f" * 32, tags=[{"key": "checked", "value": "yes"}])
    post("registered-models/alias", name="digits of hands", alias="champion", version="1")
    post("registered-models/alias", name="digits of hands", alias="challenger", version="2")
    post("registered-models/create", name="empty")


def check_models(page, url, run):
    """Registered models: found, opened by keys, each version with the run that it comes from; and from the run back."""
    register(url, run)
    page.open(url, "document.querySelectorAll('tbody tr').length >= 2")
    page.key("m")
    page.wait("JSON.stringify(check.column('model')) === '[\"digits of hands\",\"empty\"]'")
    assert page.js("document.querySelector('#places [aria-current=page]').textContent") == "Models"
    assert "champion → 1" in page.js("check.cell('digits of hands', 'aliases')")
    looks(page, "models")
    page.key("/")
    page.type("hands")
    page.wait("check.column('model').length === 1")
    tabbed(page, [".brand", "#places a", "#help", "input[type=search]", "tbody a"])
    page.key("Enter")
    page.wait("check.column('version').join() === '2,1'")
    assert page.js("check.column('run')") == ["f" * 12 + "this run isn't here", "digits-1 completed"], page.js("check.column('run')")
    assert page.js("check.column('aliases')") == ["challenger", "champion"]
    assert page.js("check.column('validation accuracy')[1]") != "–"
    looks(page, "model")
    page.js("document.querySelector('tbody tr:nth-child(2) a').click()")
    page.wait("check.panel('Registered models').includes('champion')")
    page.open(f"{url}/#/model/none", "document.querySelector('.error')?.textContent.includes('name=none')")
    quiet(page, but=["404"])


def check_run(page, url, runs, name):
    """A run that has ended, whole."""
    known = record(runs, name)
    page.open(f"{url}/#/run/{known['id']}", "check.inks('Loss').every((count) => count > 20)")
    page.wait("check.inks('Samples per second')[0] > 20")
    page.wait("check.inks('Worker speed (samples/s at work)').every((count) => count > 20)")
    assert page.js("check.fact('step')") == str(known["final"]["step"])
    about = page.js("document.querySelector('.about').textContent")
    assert known["final"]["digest"][:12] in about and known["dataset"]["version"] in about, about
    assert str(runs / name) in about, about
    assert f"step-{known['final']['step']:08}" in page.js("check.panel('Checkpoints')")
    whole(page, "Who takes part")
    workers = page.js("check.rows('Who takes part')")
    assert {"worker-0", "worker-1"} <= set(workers), workers
    columns = ["samples/s", "share", "speed at work"]
    speeds = [page.js(f"check.cell('worker-{n}', '{column}')") for n in (0, 1) for column in columns]
    assert all(speed != "–" for speed in speeds), speeds
    assert "worker-0 joined" in page.js("check.panel('What happened')")
    version = page.js("check.panel('Data version')")
    assert known["dataset"]["version"] in version and known["dataset"]["digest"] in version, version
    assert str(known["final"]["step"]) in page.js("check.rows('Checkpoints')")
    matrix = known["final"]["confusion"]
    assert page.js("check.matrix()") == matrix["rows"], matrix
    hits, total = sum(row[n] for n, row in enumerate(matrix["rows"])), sum(map(sum, matrix["rows"]))
    assert hits / total == known["final"]["metrics"]["validation/accuracy"]
    link = page.wait("document.querySelector('a[download$=safetensors]')?.href")
    size = page.js(f"fetch({json.dumps(link)}).then((answer) => answer.arrayBuffer()).then((bytes) => bytes.byteLength)")
    assert size == (runs / name / "exports/safetensors/model.safetensors").stat().st_size
    check_charts(page)
    looks(page, "run")
    tabbed(page, ["select", "input[type=range]", "input[type=search]", "canvas", "button[aria-pressed]", "summary", "a[download]", "textarea"])
    page.js("document.querySelectorAll('details').forEach((box) => { box.open = true; })")
    page.wait("check.inks('Recall, by label').every((count) => count > 20) && check.inks('cpu utilization percentage')[0] > 5")
    looks(page, "run-open")


def check_charts(page):
    """The axis, smoothing, the filter, the logarithmic scale and the crosshair do something."""
    before = page.js("check.print('Loss')")
    for change, back in [
        ("check.set('select', 'epoch')", "check.set('select', 'step')"),
        ("check.set('input[type=range]', '0.9')", "check.set('input[type=range]', '0')"),
        ("check.chart('Loss').querySelector('[aria-pressed]').click()",) * 2,
    ]:
        page.js(change)
        page.wait(f"check.print('Loss') !== {json.dumps(before)}")
        page.js(back)
        page.wait(f"check.print('Loss') === {json.dumps(before)}")
    page.js("check.chart('Loss').querySelector('canvas').focus()")
    page.key("ArrowLeft")
    page.wait("check.chart('Loss').querySelector('header').textContent.includes('step ')")
    page.js("document.activeElement.blur()")
    page.js("check.set('.look input[type=search]', 'learning')")
    page.wait("[...document.querySelectorAll('.chart')].filter((chart) => chart.offsetParent).length === 1")
    page.js("check.set('.look input[type=search]', '')")
    quiet(page)


def check_live(page, runs):
    """A run that goes on, at the coordinator itself: the page follows without being loaded again."""
    process = train(runs, "run.name=live", "checkpoint.every=20 steps", "optimizer.learning_rate=0.0005", epochs=2_000)
    try:
        place = runs / "live" / "tracker-address"
        url = wait_for("the run's own tracker", lambda: place.is_file() and place.read_text().strip(), DEADLINE)
        page.open(url, "check.column('run').includes('live')")
        page.js("window.mark = 'kept'; document.querySelector('tbody a').focus()")
        focused = page.js("document.activeElement.textContent")
        loss = page.wait("check.cell('live', 'validation loss') !== '–' && check.cell('live', 'validation loss')", DEADLINE)
        page.wait(f"check.cell('live', 'validation loss') !== {json.dumps(loss)}")
        assert page.js("mark") == "kept" and page.js("document.activeElement.textContent") == focused
        assert page.js("document.getElementById('live').textContent") == "1 running"
        page.js("[...document.querySelectorAll('tbody a')].find((link) => link.textContent === 'live').click()")
        page.wait("check.inks('Loss').every((count) => count > 20)")
        page.wait("check.cell('worker-0', 'samples/s') !== '–'")
        assert "2 in the view" in page.js("check.panel('Who takes part')")
        before = page.js("[check.fact('step'), check.fact('train loss'), check.print('Loss'), check.panel('Checkpoints'), check.panel('Confusion matrix'), check.cell('worker-0', 'speed at work')]")
        now = "[check.fact('step'), check.fact('train loss'), check.print('Loss'), check.panel('Checkpoints'), check.panel('Confusion matrix'), check.cell('worker-0', 'speed at work')]"
        for index, what in enumerate(["step", "loss", "curve", "checkpoints", "confusion matrix", "speed"]):
            changed = f"{now}[{index}] !== {json.dumps(before[index])}"
            page.wait(changed)
        assert page.js("document.getElementById('live').textContent") == "live" and page.js("mark") == "kept"
        assert page.js("document.getAnimations().length") > 0
        still(page)
        looks(page, "live")
        quiet(page)
        page.open(f"{url}/#/compare?ids={record(runs, 'live')['id']},{record(runs, 'digits-1')['id']}", "check.inks('train/loss').every((count) => count > 20)")
        before = page.js("check.print('train/loss')")
        page.wait(f"check.print('train/loss') !== {json.dumps(before)}")
        page.open(f"{url}/#/run/{record(runs, 'live')['id']}", "check.inks('Loss').every((count) => count > 20)")
        page.wait("document.getElementById('live').textContent === 'live'")
        quiet(page)
        # Its tracker ends with it, which the page says; a browser notes each try itself.
        end(process, 130)
        page.wait("document.querySelector('.error, .ended')?.textContent.includes('tracker serve')")
        assert page.js("check.inks('Loss')[0]") > 20, "what is known stays"
        page.open("about:blank", "true")
        quiet(page, but=AWAY)
    finally:
        end(process, 130)


def generate(folder, like):
    """Runs as a long search leaves them, and a long one."""
    config, own = (like / "config.toml").read_text(), json.loads((like / "run.json").read_text())
    chance = random.Random(7)

    def make(name, number, keys, steps):
        place = folder / name
        place.mkdir(parents=True)
        place.joinpath("config.toml").write_text(config)
        identity = f"{number:08x}-0000-4000-8000-{number:012x}"
        place.joinpath("run.json").write_text(json.dumps({**own, "run": name, "id": identity}))
        with open(place / "metrics.jsonl", "w") as file:
            for step in range(1, steps + 1):
                at = f'"step":{step},"epoch":{step / 23:.6f},"samples":{step * 64},"time":{1.79e9 + number + step / 9:.3f}'
                value = EXTREMES.get((name, step), math.exp(-3 * step / steps) + chance.random() / 10)
                file.writelines(f'{{{at},"key":"{key}","value":{value:.9f}}}\n' for key in keys)
        return identity

    for number in range(RUNS):
        make(f"sweep-{number}", number, ["train/loss", "validation/loss", "validation/accuracy"], 5)
    return make("long", RUNS, KEYS, POINTS // len(KEYS))


def check_many(page, folder, like):
    """A thousand runs, and one with a million points."""
    long = generate(folder, like)
    with Served(folder) as url:
        took = page.open(url, "document.querySelectorAll('tbody tr').length >= 100", DEADLINE)
        print(f"pages: {RUNS + 1} runs and {POINTS + 15 * RUNS} points that no index knows are listed after {took:.1f} s")
    with Served(folder) as url:
        listed = page.open(url, "document.querySelectorAll('tbody tr').length >= 100")
        curve = page.open(f"{url}/#/run/{long}", "check.inks('Loss')[0] > 20")
        page.wait("check.inks('gradient norm')[0] > 20")
        values = page.js(f"fetch('api/runs/{long}/points?key=train%2Floss&max=800').then((answer) => answer.json()).then((found) => found.series[0].value)")
        assert len(values) <= 800 and (min(values), max(values)) == tuple(sorted(EXTREMES.values())), (len(values), min(values), max(values))
        print(f"pages: {RUNS + 1} runs are listed {listed:.2f} s after the address is opened, the loss of {POINTS // len(KEYS)} "
              f"steps (of {POINTS} points) is drawn after {curve:.2f} s")
        assert max(listed, curve) < OPENS_IN_S, (listed, curve)
        quiet(page)


def main():
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary, Chromium() as page:
        page.send("Page.addScriptToEvaluateOnNewDocument", source=HELPERS)
        runs = pathlib.Path(temporary) / "runs"
        for rate in ["0.003", "0.0005"]:
            # Long enough on any machine for several readings of it.
            process = train(runs, f"optimizer.learning_rate={rate}", epochs=30)
            output, _ = process.communicate(timeout=DEADLINE)
            assert process.returncode == 0, output
        with Served(runs) as url:
            check_list(page, url)
            check_compare(page, url, [record(runs, name)["id"] for name in ("digits-1", "digits-2")])
            check_five(page, url, runs)
            check_models(page, url, record(runs, "digits-1")["id"])
            check_run(page, url, runs, "digits-1")
            page.open("about:blank", "true")
        check_live(page, runs)
        check_ended(page, runs)
        check_returning(page, pathlib.Path(temporary) / "returning", runs / "digits-1")
        check_hostile(page, pathlib.Path(temporary) / "hostile", runs / "digits-1")
        check_token(page, pathlib.Path(temporary) / "hostile")
        check_away(page, pathlib.Path(temporary) / "away", runs / "digits-1")
        check_many(page, pathlib.Path(temporary) / "many", runs / "digits-1")
    print(f"the tracker's pages do what they must, in {time.monotonic() - begun:.0f} s")


# Who stops this stops what it has started, too.
signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
os.chdir(pathlib.Path(__file__).resolve().parent.parent)
main()
