"""For check_pages.py: a run that ends under an open page, workers that come and go, names that want to turn a line around."""

import json
import time

from chromium import wait_for
from pages_kit import DEADLINE, Served, end, looks, quiet, record, train


def check_ended(page, runs):
    """A run completes while its page is open at its own tracker: the page shows its last state, stands still, and says where it
    can be seen from now on."""
    process = train(runs, "run.name=ended", "optimizer.learning_rate=0.0005", epochs=25)
    try:
        place = runs / "ended" / "tracker-address"
        url = wait_for("the run's own tracker", lambda: place.is_file() and place.read_text().strip(), DEADLINE)
        page.open(f"{url}/#/run/{record(runs, 'ended')['id']}", "document.getElementById('live').textContent === 'live'")
        output, _ = process.communicate(timeout=2 * DEADLINE)
        assert process.returncode == 0, output
        said = page.wait("document.querySelector('.ended')?.textContent")
        assert f"coordinator tracker serve --dir {runs}" in said, said
        assert page.js("document.querySelector('.error') === null && document.querySelector('.head .status').textContent") == "completed"
        known = record(runs, "ended")
        assert page.js("check.fact('step')").replace(",", "") == str(known["final"]["step"])
        accuracy = known["final"]["metrics"]["validation/accuracy"]
        assert abs(float(page.js("check.fact('validation accuracy')")) - accuracy) < 5e-4, accuracy
        assert known["final"]["digest"][:12] in page.js("document.querySelector('.about').textContent")
        took = page.js("check.fact('took')")
        assert abs(seconds(took) - known["active"]["seconds"]) <= 1, (took, known["active"])
        assert page.js("document.getElementById('live').textContent") == "ended"
        shares = [int(page.js(f"check.cell('worker-{n}', 'share')").removesuffix(" %")) for n in (0, 1)]
        assert sum(shares) == 100, shares
        # Whatever draws it again, such as a tab that is looked at again.
        before = page.js("document.querySelector('main').textContent")
        page.js("document.dispatchEvent(new Event('visibilitychange'))")
        time.sleep(2)
        assert page.js("document.querySelector('main').textContent") == before
        looks(page, "ended")
        page.open("about:blank", "true")
        quiet(page)
    finally:
        end(process, 0)


def seconds(text):
    """As the page says a duration."""
    units = {"ms": 0.001, "s": 1, "min": 60, "h": 3600}
    words = text.split(" ")
    return sum(float(number) * units[unit] for number, unit in zip(words[::2], words[1::2]))


TURNED = "worker-\u202etxt.exe"


def check_returning(page, folder, like):
    """Workers that came and went, in a run that was started three times with nights between: a row each, shares that are a whole,
    and no time that nobody worked."""
    run = folder / "returning-1"
    run.mkdir(parents=True)
    own = json.loads((like / "run.json").read_text())
    member = lambda name, joined, left=None, reason=None: {**own["members"][0], "name": name, "joined_step": joined, "left_step": left, "reason": reason}
    members = [member("a", 0), member("b", 0), member(TURNED, 0, 20, "it was lost"), member("a", 40), member("b", 40, 60, "it leaves"),
               member("a", 80), member("b", 90), member("c", 80)]
    began = 1.79e9
    run.joinpath("run.json").write_text(json.dumps({**own, "run": "returning-1", "members": members,
                                                    "active": {"seconds": 185.0, "until": began + 90_000}}))
    run.joinpath("config.toml").write_text("[model]\nkind = 'mlp'\n")
    line = lambda step, time, key, value: json.dumps({"step": step, "epoch": 1.0, "samples": 64 * step, "time": time, "key": key, "value": value}) + "\n"
    run.joinpath("metrics.jsonl").write_text("".join(line(step, began + 900 * step, "train/samples_per_second", 900.0) for step in (1, 100)))
    # The lost one had half, once.
    shares = [(TURNED, 10, 0.5)] + [(name, 100, share) for name, share in (("a", 1 / 3), ("b", 1 / 3), ("c", 1 / 3))]
    run.joinpath("system.jsonl").write_text("".join(
        line(step, began + 900 * step, f"workers/{name}/{what}", value) for name, step, share in shares
        for what, value in (("share", share), ("samples_per_second", 100.0))))
    with Served(folder) as url:
        page.open(f"{url}/#/run/{own['id']}", "check.rows('Who takes part').length > 0")
        rows = page.js("check.rows('Who takes part')")
        assert len(rows) == 4 and "4 took part" in page.js("check.panel('Who takes part')"), rows
        assert sorted(page.js("check.column('share')")) == ["33 %", "33 %", "34 %", "–"], page.js("check.column('share')")
        first = {row[0]: row for row in rows}
        assert "steps 0 – 40, 40 – 80, 80 – " in first["a"] and "steps 0 – 40, 40 – 60, 90 – " in first["b"], rows
        assert first["c"] == "c", rows
        assert page.js("check.fact('took')") == "3 min 5 s"
        # What turns a line around is shown as what it is.
        shown = page.js("document.querySelector('main').textContent")
        assert TURNED not in shown and "worker-\\u{202e}txt.exe" in shown, shown
        looks(page, "returning")
        page.open("about:blank", "true")
        quiet(page)
