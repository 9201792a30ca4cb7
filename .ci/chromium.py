"""A headless Chromium driven through its DevTools protocol: just enough to look at pages as a person does.

Needs `websocket-client`. https://chromedevtools.github.io/devtools-protocol/ describes the messages.
"""

import base64
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request

import websocket

DEADLINE = 20
NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
# Nothing of Chromium's own goes out, so that a request to elsewhere is the page's.
FLAGS = [
    "--headless=new", "--remote-debugging-port=0", "--no-sandbox", "--no-first-run", "--no-default-browser-check",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-gpu",
    "--disable-dev-shm-usage", "--disable-extensions", "--hide-scrollbars", "--window-size=1280,900",
]


class Chromium:
    """The program, with one page open. Use it in a `with`."""

    def __enter__(self):
        program = next(filter(None, map(shutil.which, NAMES)), None)
        assert program, f"none of {', '.join(NAMES)} is installed"
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        self.process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={self.profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )
        port_file = pathlib.Path(self.profile) / "DevToolsActivePort"
        wait_for("Chromium's port", lambda: port_file.is_file() and port_file.read_text().count("\n") >= 1)
        port = port_file.read_text().splitlines()[0]
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def page():
            with direct.open(f"http://127.0.0.1:{port}/json/list", timeout=DEADLINE) as answer:
                return next((p for p in json.load(answer) if p["type"] == "page"), None)

        self.page = Page(wait_for("a page", page)["webSocketDebuggerUrl"])
        return self.page

    def __exit__(self, *_):
        self.page.close()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(DEADLINE)
        shutil.rmtree(self.profile, ignore_errors=True)


class Page:
    """The open page. `troubles` collects what must not be: see `_note`."""

    def __init__(self, address):
        self.socket = websocket.create_connection(address, timeout=DEADLINE, suppress_origin=True, http_no_proxy=["*"])
        self.next, self.troubles, self.requests, self.host = 0, [], {}, None
        for domain in ["Page", "Runtime", "Network", "Log", "Accessibility"]:
            self.send(f"{domain}.enable")

    def close(self):
        self.socket.close()

    def send(self, method, **params):
        """A command's result. What Chromium tells meanwhile is noted."""
        self.next += 1
        number = self.next
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until:
            message = json.loads(self.socket.recv())
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self._note(message)
        raise AssertionError(f"{method} has no answer after {DEADLINE} s")

    def _note(self, message):
        """An uncaught exception, a console error, a failed request or one to another host is trouble."""
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.troubles.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.troubles.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.troubles.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            self.requests[params["requestId"]] = url
            parts = urllib.parse.urlsplit(url)
            if parts.scheme not in ("data", "blob") and self.host and parts.netloc != self.host:
                self.troubles.append(f"a request to another host: {url}")
        elif method == "Network.responseReceived" and params["response"]["status"] >= 400:
            self.troubles.append(f"{params['response']['status']} from {params['response']['url']}")
        elif method == "Network.loadingFailed" and not params.get("canceled"):
            self.troubles.append(f"{params['errorText']}: {self.requests.get(params['requestId'], '?')}")

    def open(self, url, ready, seconds=DEADLINE):
        """Loads an address anew and waits until the expression `ready` holds: how many seconds that took."""
        # The address of a page of the same document alone would not load anything.
        self.send("Page.navigate", url="about:blank")
        self.host = urllib.parse.urlsplit(url).netloc
        begun = time.monotonic()
        self.send("Page.navigate", url=url)
        self.wait(ready, seconds)
        return time.monotonic() - begun

    def js(self, expression):
        """The value of an expression; a promise is waited for."""
        done = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, (expression, done["exceptionDetails"])
        return done["result"].get("value")

    def wait(self, expression, seconds=DEADLINE):
        """The expression's first value that is true."""

        def look():
            # A page that is being replaced has no context to evaluate in.
            try:
                return self.js(expression)
            except AssertionError as trouble:
                if "context" in str(trouble) or "TypeError" in str(trouble):
                    return None
                raise

        try:
            return wait_for(expression, look, seconds)
        except AssertionError as late:
            raise AssertionError(f"{late}; the page says: {self.js('document.body.innerText')[:800]!r}; {self.troubles}")

    def key(self, name, text=None, modifiers=0):
        """Presses a key: `Tab`, `Enter`, or a character. `modifiers` is 8 for Shift."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27}
        text = {"Enter": "\r"}.get(name, name if len(name) == 1 else None) if text is None else text
        code = codes.get(name, ord(name.upper()) if len(name) == 1 else 0)
        common = {"key": name, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **({"text": text} if text else {}), **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text):
        """Types into what has the focus."""
        self.send("Input.insertText", text=text)

    def size(self, width, height, scale=1, mobile=False):
        """The window's size in CSS pixels."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile)

    def scheme(self, name):
        """`light` or `dark`."""
        self.media(**{"prefers-color-scheme": name})

    def media(self, **features):
        """What the person wants, in CSS's words; nothing else."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": name, "value": value} for name, value in features.items()])

    def heard(self):
        """The page as a screen reader has it: role, name and heading level of each part."""
        found = []
        for node in self.send("Accessibility.getFullAXTree")["nodes"]:
            if not node["ignored"]:
                level = next((p["value"]["value"] for p in node.get("properties", []) if p["name"] == "level"), None)
                found.append((node["role"]["value"], node.get("name", {}).get("value", ""), level))
        return found

    def picture(self, path):
        """The whole page as PNG."""
        done = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        pathlib.Path(path).write_bytes(base64.b64decode(done["data"]))


def wait_for(what, look, seconds=DEADLINE):
    """The first value of `look` that is true, within a deadline."""
    until = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < until, f"{what}: not after {seconds} s"
        time.sleep(0.02)
