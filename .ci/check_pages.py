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
import signal
import subprocess
import sys
import tempfile
import time

from chromium import Chromium, wait_for

coordinator = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "target/release/coordinator").resolve()
pictures = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None
DEADLINE = 60
# Of what a person waits for; what was measured is printed, and this says only that nothing is broken.
OPENS_IN_S = 5
RUNS, POINTS, KEYS = 1_000, 1_000_000, ["train/loss", "train/accuracy", "train/gradient_norm", "train/learning_rate"]

# In every page: what is drawn, what text can be read, where the focus is.
HELPERS = pathlib.Path(__file__).with_name("pages.js").read_text()

TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"


def train(runs, *more, epochs=4):
    """A run of the digits with two local workers, started."""
    command = [coordinator, "--config", "configs/digits.toml", "--set", f"run.dir={runs}", "--set", f"train.epochs={epochs}",
               "--set", "tracker.system_every=500ms", "--set", "tracker.listen=127.0.0.1:0"]
    for setting in more:
        command += ["--set", setting]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end(process, code=0):
    """Ctrl-C, and what it leaves with."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE) == code, process.returncode


class Served:
    """`coordinator tracker serve` over a folder; the address, in a `with`."""

    def __init__(self, runs, *more):
        self.runs, self.more = runs, more

    def __enter__(self):
        command = [coordinator, "tracker", "serve", "--dir", self.runs, "--listen", "127.0.0.1:0", *self.more]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert " at http://" in line, line
        return line.split(" at ")[1].split(";")[0].strip()

    def __exit__(self, *_):
        end(self.process)


def record(runs, name):
    return json.loads((runs / name / "run.json").read_text())


def quiet(page, but=()):
    """Nothing went wrong so far, but for what is expected; that charts are read back is this program's doing."""
    troubles = [trouble for trouble in page.troubles if not any(word in trouble for word in ["willReadFrequently", *but])]
    assert not troubles, troubles
    page.troubles.clear()


def looks(page, name):
    """Legible in both schemes, and not wider than a phone. Pictures are taken on the way."""
    for scheme in ["light", "dark"]:
        page.scheme(scheme)
        page.size(1280, 900)
        paper = page.js("check.luminance(getComputedStyle(document.body).backgroundColor)")
        assert (paper < 0.1) == (scheme == "dark"), (scheme, paper)
        pale = page.js("check.illegible()")
        assert not pale, (name, scheme, pale)
        picture(page, f"{name}-{scheme}", 1280, 1)
    page.size(390, 844, 2, True)
    page.scheme("light")
    page.js(TWO_FRAMES)
    # A phone makes its window as wide as what doesn't fit.
    wide = page.js("Math.max(innerWidth, document.documentElement.scrollWidth)")
    assert wide <= 390, (name, wide, page.js("check.widest()"))
    picture(page, f"{name}-phone", 390, 2)
    page.size(1280, 900)
    quiet(page)


def picture(page, name, width, scale):
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
        page.size(width, page.js("document.documentElement.scrollHeight"), scale, width < 500)
        # Charts are drawn again in the frame after their size has changed.
        page.js(TWO_FRAMES)
        page.picture(pictures / f"{name}.png")


def tabbed(page, wanted):
    """The Tab key comes by each of these selectors, in this order, and one sees where it is."""
    page.js("document.activeElement.blur()")
    left, seen = list(wanted), []
    for _ in range(80):
        page.key("Tab")
        seen.append(page.js("check.focused()"))
        assert seen[-1]["is_visible"], seen[-1]
        if left and page.js(f"document.activeElement.matches({json.dumps(left[0])})"):
            left.pop(0)
        if not left:
            return
    raise AssertionError((left, [where["what"] for where in seen]))


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
    page.js("document.querySelector('details summary').click()")
    page.wait("check.inks('validation/recall/3').every((count) => count > 20)")
    page.js("document.querySelector('details summary').click()")
    looks(page, "compare")
    tabbed(page, ["select", "input[type=range]", "input[type=search]", "canvas", "summary", "input[type=checkbox]"])
    quiet(page)


def check_run(page, url, runs, name):
    """A run that has ended, whole."""
    known = record(runs, name)
    page.open(f"{url}/#/run/{known['id']}", "check.inks('Loss').every((count) => count > 20)")
    page.wait("check.inks('Samples per second')[0] > 20")
    page.wait("check.inks('Worker speed (samples/s at work)').every((count) => count > 20)")
    assert page.js("check.fact('step')") == str(known["final"]["step"])
    about = page.js("document.querySelector('.about').textContent")
    assert known["final"]["digest"][:12] in about and known["dataset"]["version"] in about, about
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
        page.wait("document.querySelector('.error')?.textContent.includes('tracker serve')")
        assert page.js("check.inks('Loss')[0]") > 20, "what is known stays"
        page.open("about:blank", "true")
        quiet(page, but=["ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "ERR_ABORTED"])
    finally:
        end(process, 130)


HOSTILE = """<img src=x onerror='window.hit=1'><script>window.hit=1</script>"javascript:window.hit=1"""


def check_hostile(page, folder, like):
    """Whatever a run says is text: its name, experiment, events, members, configuration, metrics, notes."""
    run = folder / "hostile-1"
    run.mkdir(parents=True)
    own = json.loads((like / "run.json").read_text())
    event = {"time": 1.79e9, "step": 1, "event": "left", "text": HOSTILE, "cost_seconds": None}
    member = {**own["members"][0], "name": HOSTILE, "device": HOSTILE, "left_step": 1, "reason": HOSTILE}
    matrix = {"labels": [HOSTILE, "b"], "rows": [[1, 2], [3, 4]], "step": 1}
    final = {**own["final"], "confusion": matrix}
    run.joinpath("run.json").write_text(json.dumps({**own, "run": HOSTILE, "status": "failed", "message": HOSTILE, "events": [event],
                                                    "members": [member], "dataset": {**own["dataset"], "name": HOSTILE}, "final": final}))
    run.joinpath("config.toml").write_text(f"[model]\nkind = {json.dumps(HOSTILE)}\n")
    at = '"epoch":1.0,"samples":64,"time":1.79e9'
    run.joinpath("metrics.jsonl").write_text("".join(
        f'{{"step":{step},{at},"key":{json.dumps(key)},"value":0.5}}\n' for step in (1, 2) for key in ("train/loss", HOSTILE)))
    run.joinpath("git.diff").write_text(HOSTILE)
    with Served(folder) as url:
        page.open(url, "document.querySelectorAll('tbody tr').length === 1")
        identity = page.js("document.querySelector('tbody tr').dataset.id")
        page.open(f"{url}/#/run/{identity}", "check.inks('Loss')[0] > 5")
        shown = page.js("document.querySelector('main').textContent")
        assert shown.count(HOSTILE) >= 5, shown
        said = page.js("document.querySelector('.slot .error').textContent")
        assert said == HOSTILE, "why a run failed stands out"
        place = f"api/2.0/mlflow-artifacts/artifacts/' + run.experiment_id + '/{identity}/artifacts/git.diff"
        diff = page.js(f"fetch('api/runs/{identity}').then((a) => a.json()).then((run) => fetch('{place}')).then((a) => a.text())")
        assert diff == HOSTILE, diff
        page.open(f"{url}/#/compare?ids={identity},{identity}", "document.querySelector('h1, .error') !== null")
        assert page.js("window.hit === undefined && !document.querySelector('main img, main script')")
        quiet(page)
        page.open(f"{url}/{'%3Cimg%20src=x%20onerror=window.hit=1%3E'}", "document.querySelector('h1')?.textContent === 'Not here'")
        assert page.js("window.hit === undefined && !document.querySelector('img') && document.querySelector('a').getAttribute('href') === '/'")
        page.open("about:blank", "true")
        quiet(page, but=["404"])


def check_token(page, folder):
    """With a token: a person is asked for it, is told when it is wrong, and gets in with it."""
    token = folder.parent / "token"
    token.write_text("0123456789abcdef+/=")
    with Served(folder, "--token-file", token) as url:
        page.open(url, "document.querySelector('h1')?.textContent === 'This tracker asks for its token'")
        for given, then in [("0123456789abcdeg+/=", "document.querySelector('[role=alert]')?.textContent.includes('this token is wrong')"),
                            (token.read_text(), "document.querySelectorAll('tbody tr').length === 1")]:
            page.js("document.querySelector('input').focus()")
            page.type(given)
            page.key("Enter")
            page.wait(then)
            assert page.js("document.cookie") == "", "scripts can't read it"
        assert "token" not in page.js("location.href")
        page.open("about:blank", "true")
        quiet(page, but=["401"])


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
                value = math.exp(-3 * step / steps) + chance.random() / 10
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
            process = train(runs, f"optimizer.learning_rate={rate}", epochs=8)
            output, _ = process.communicate(timeout=DEADLINE)
            assert process.returncode == 0, output
        with Served(runs) as url:
            check_list(page, url)
            check_compare(page, url, [record(runs, name)["id"] for name in ("digits-1", "digits-2")])
            check_run(page, url, runs, "digits-1")
            page.open("about:blank", "true")
        check_live(page, runs)
        check_hostile(page, pathlib.Path(temporary) / "hostile", runs / "digits-1")
        check_token(page, pathlib.Path(temporary) / "hostile")
        check_many(page, pathlib.Path(temporary) / "many", runs / "digits-1")
    print(f"the tracker's pages do what they must, in {time.monotonic() - begun:.0f} s")


# Who stops this stops what it has started, too.
signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
os.chdir(pathlib.Path(__file__).resolve().parent.parent)
main()
