"""For check_pages.py: runs, servers, and what every page must be: legible, named for those who don't see it, not too wide."""

import json
import pathlib
import signal
import subprocess
import sys

coordinator = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "target/release/coordinator").resolve()
pictures = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None
DEADLINE = 60

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

    def __init__(self, runs, *more, port=0):
        self.runs, self.more, self.port = runs, more, port

    def __enter__(self):
        command = [coordinator, "tracker", "serve", "--dir", self.runs, "--listen", f"127.0.0.1:{self.port}", *self.more]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert " at http://" in line, line
        return line.split(" at ")[1].split(";")[0].strip()

    def __exit__(self, *_):
        end(self.process)

    def kill(self):
        """As a machine that is gone; the port of the next one is the same."""
        self.process.kill()
        self.process.wait(DEADLINE)


def record(runs, name):
    return json.loads((runs / name / "run.json").read_text())


def quiet(page, but=()):
    """Nothing went wrong so far, but for what is expected; that charts are read back is this program's doing."""
    troubles = [trouble for trouble in page.troubles if not any(word in trouble for word in ["willReadFrequently", *but])]
    assert not troubles, troubles
    page.troubles.clear()


def looks(page, name, but=()):
    """Legible in both schemes, and not wider than a phone. Pictures are taken on the way. `but`: troubles that are expected."""
    for scheme in ["light", "dark"]:
        page.scheme(scheme)
        page.size(1280, 900)
        paper = page.js("check.luminance(getComputedStyle(document.body).backgroundColor)")
        assert (paper < 0.1) == (scheme == "dark"), (scheme, paper)
        pale = page.js("check.illegible()")
        assert not pale, (name, scheme, pale)
        named(page, name)
        picture(page, f"{name}-{scheme}", 1280, 1)
    page.size(390, 844, 2, True)
    page.scheme("light")
    page.js(TWO_FRAMES)
    # A phone makes its window as wide as what doesn't fit.
    wide = page.js("Math.max(innerWidth, document.documentElement.scrollWidth)")
    assert wide <= 390, (name, wide, page.js("check.widest()"))
    picture(page, f"{name}-phone", 390, 2)
    page.size(1280, 900)
    quiet(page, but)


# What somebody who hears a page must be told the purpose of.
SPOKEN = {"button", "link", "textbox", "searchbox", "combobox", "slider", "checkbox", "img", "image", "region", "navigation"}


def named(page, name):
    """As Chromium tells a screen reader: one main part and one first heading, and whatever can be used or looked at has a name."""
    heard = page.heard()
    assert [role for role, *_ in heard].count("main") == 1, (name, heard)
    assert [(role, level) for role, _, level in heard].count(("heading", 1)) == 1, (name, heard)
    nameless = [role for role, text, _ in heard if role in SPOKEN and not text.strip()]
    assert not nameless, (name, nameless, heard)


def still(page):
    """Nothing moves for those who don't want that."""
    page.media(**{"prefers-reduced-motion": "reduce"})
    assert page.js("document.getAnimations().length") == 0, page.js("document.getAnimations().length")
    page.media()


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
