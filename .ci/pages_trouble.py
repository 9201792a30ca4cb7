"""For check_pages.py: what goes wrong, as a person sees it: texts that want to be HTML, a token, a tracker that dies and comes back, a
run that is removed, nothing at all."""

import http.server
import json
import shutil
import threading
import time

from pages_kit import Served, looks, quiet

# What a browser notes by itself of a server that is gone.
AWAY = ["ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "ERR_ABORTED"]

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
        quiet(page, but=["404"])
        looks(page, "not-here")
        page.open("about:blank", "true")


def check_token(page, folder):
    """With a token: a person is asked for it, is told when it is wrong, and gets in with it."""
    token = folder.parent / "token"
    token.write_text("0123456789abcdef+/=")
    with Served(folder, "--token-file", token) as url:
        page.open(url, "document.querySelector('h1')?.textContent === 'This tracker asks for its token'")
        for given, then in [("0123456789abcdeg+/=", "document.querySelector('[role=alert]')?.textContent.includes('this token is wrong')"),
                            (token.read_text(), "document.querySelectorAll('tbody tr').length === 1")]:
            quiet(page, but=["401"])
            looks(page, "token")
            page.js("document.querySelector('input').focus()")
            page.type(given)
            page.key("Enter")
            page.wait(then)
            assert page.js("document.cookie") == "", "scripts can't read it"
        assert "token" not in page.js("location.href")
        from_elsewhere(page, url)
        page.open("about:blank", "true")
        quiet(page, but=["401"])


def from_elsewhere(page, url):
    """Whoever comes by a link from another site is let in: the token was given once."""
    class Linked(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            text = f"<!doctype html><link rel=icon href=data:,><a href={url}>the runs</a>".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    elsewhere = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Linked)
    threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
    # Another name is another site, whatever machine it is.
    page.open(f"http://localhost:{elsewhere.server_address[1]}", "document.querySelector('a') !== null")
    page.host = url.removeprefix("http://")
    page.js("document.querySelector('a').click()")
    page.wait("document.querySelectorAll('tbody tr').length === 1")
    elsewhere.shutdown()
    quiet(page)


class Going:
    """A run that goes on, as far as its folder says: `more` appends steps."""

    def __init__(self, folder, like):
        self.run = folder / "going-1"
        self.run.mkdir(parents=True)
        own = json.loads((like / "run.json").read_text())
        self.identity = own["id"]
        self.run.joinpath("run.json").write_text(json.dumps({**own, "run": "going-1", "status": "running"}))
        self.step = 0

    def more(self, steps):
        with open(self.run / "metrics.jsonl", "a") as file:
            for _ in range(steps):
                self.step += 1
                at = f'"step":{self.step},"epoch":1.0,"samples":{64 * self.step},"time":{time.time():.3f}'
                file.write(f'{{{at},"key":"train/loss","value":{1 / self.step:.6f}}}\n')


def check_away(page, folder, like):
    """The tracker is killed under an open page and comes back at the same address: the page says so, goes on by itself, and has each
    point once; if another token is asked for then, it says that. A run that is removed is said to be."""
    going = Going(folder, like)
    token = folder.parent / "another-token"
    token.write_text("fedcba9876543210")
    is_shown = "check.chart('Loss')?.dataset.points === '{}' && !document.querySelector('.error') && document.getElementById('live').textContent === 'live'"
    going.more(50)
    served = Served(folder)
    url = served.__enter__()
    served.port = int(url.rsplit(":", 1)[1])
    page.open(f"{url}/#/run/{going.identity}", is_shown.format(50))
    page.js("window.mark = 'kept'")
    going.more(10)
    page.wait(is_shown.format(60))
    quiet(page)
    served.kill()
    said = page.wait("document.querySelector('.error')?.textContent")
    assert "can't be reached" in said and page.js("document.getElementById('live').textContent") == "trying again", said
    looks(page, "away", but=AWAY)
    going.more(20)
    served.__enter__()
    page.wait(is_shown.format(80))
    going.more(5)
    page.wait(is_shown.format(85))
    served.kill()
    locked = Served(folder, "--token-file", token, port=served.port)
    locked.__enter__()
    said = page.wait("document.querySelector('.error a') && document.querySelector('.error').textContent")
    assert "asks for its token" in said, said
    looks(page, "refused", but=[*AWAY, "401"])
    page.open(f"{url}/#/compare?ids={going.identity},{going.identity}", "document.querySelector('h1')?.textContent === 'This tracker asks for its token'")
    locked.kill()
    served.__enter__()
    page.open(f"{url}/#/run/{going.identity}", is_shown.format(85))
    going.more(1)
    page.wait(is_shown.format(86))
    shutil.rmtree(going.run)
    page.wait("document.getElementById('live').textContent === 'the run was removed'")
    page.open(url, "document.querySelector('.empty')?.textContent.includes('There are no runs yet')")
    quiet(page, but=[*AWAY, "401", "404"])
    looks(page, "empty")
    page.js("location.hash = '#/models'")
    page.wait("document.querySelector('.empty')?.textContent.includes('no registered models')")
    looks(page, "models-empty")
    page.open("about:blank", "true")
    served.__exit__()
