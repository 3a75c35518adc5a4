#!/usr/bin/env python3
"""Look at a page as a browser shows it: python .ci/look.py PAGE [FOLDER for pictures].

On a desktop and on a phone, light and dark: nothing in the console, nothing from the network, no horizontal scroll,
text that stands out from its background. Needs Debian's chromium, and no package of Python.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-pipe"
).split()
SIZES = {"desktop": (1200, 900), "phone": (390, 844)}
SECONDS = 60  # for each answer
# What the page is asked: how wide it is, how much its texts stand out from what is behind them, and what it lacks.
QUESTION = """
(() => {
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const linear = [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const ground = node => {
    for (; node; node = node.parentElement) {
      const colour = channels(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const texts = [...document.body.querySelectorAll("*")].filter(node => !node.closest("svg"))
    .filter(node => [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim()));
  const contrast = node => {
    const pair = [channels(getComputedStyle(node).color), ground(node)].map(luminance).sort((a, b) => a - b);
    return (pair[1] + 0.05) / (pair[0] + 0.05);
  };
  const anchors = [...document.querySelectorAll('a[href^="#"]')].map(a => a.getAttribute("href").slice(1));
  const pictures = [...document.querySelectorAll("svg, img")];
  return {
    width: document.documentElement.scrollWidth,
    height: document.documentElement.scrollHeight,
    contrast: Math.min(...texts.map(contrast)),
    lost_anchors: anchors.filter(id => !document.getElementById(id)),
    invisible_pictures: pictures.filter(p => p.getBoundingClientRect().width < 100).length,
    n_pictures: pictures.length,
  };
})()
"""


class Browser:
    """Chromium, spoken to over two pipes in its DevTools protocol: JSON with a zero byte at the end."""

    def __init__(self, profile: str) -> None:
        to_read, self.to_write = os.pipe()
        self.to_read, to_write = os.pipe()
        command = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "bash", chromium(), *FLAGS]
        self.process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self.numbers, self.rest = itertools.count(1), b""
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command; events that come before it are kept."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.next_message()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, event: str) -> None:
        """Read until an event has come."""
        while not any(known.get("method") == event for known in self.events):
            self.events.append(self.next_message())

    def next_message(self) -> dict[str, Any]:
        """The next answer or event."""
        end = time.monotonic() + SECONDS
        while b"\0" not in self.rest:
            ready = select.select([self.to_read], [], [], max(0.0, end - time.monotonic()))[0]
            piece = os.read(self.to_read, 1 << 20) if ready else b""
            if not piece:
                raise RuntimeError("chromium says nothing any more")
            self.rest += piece
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(RuntimeError, OSError):
            self.session = None
            self.ask("Browser.close")
        self.process.wait(SECONDS)
        os.close(self.to_write)
        os.close(self.to_read)


def chromium() -> str:
    """Where the browser is."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        sys.exit("look.py needs chromium: apt-get install -y chromium")
    return found


def look(browser: Browser, page: pathlib.Path, size: str, scheme: str) -> tuple[list[str], bytes]:
    """What is wrong with the page at this size and in this scheme, and its picture."""
    width, height = SIZES[size]
    target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
    browser.session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
        browser.ask(f"{domain}.enable")
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
    browser.ask("Emulation.setDeviceMetricsOverride", **screen)
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.events.clear()
    browser.ask("Page.navigate", url=page.resolve().as_uri())
    browser.wait_for("Page.loadEventFired")
    seen = browser.ask("Runtime.evaluate", expression=QUESTION, returnByValue=True)["result"].get("value")
    if seen is None:
        return ["the page could not be asked"], b""
    clip = {"x": 0, "y": 0, "width": width, "height": seen["height"], "scale": 1}
    picture = browser.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
    wrong = [text for text in map(complaint, browser.events) if text]
    wrong += [f"it is {seen['width']} pixels wide, the screen {width}"] if seen["width"] > width else []
    wrong += [f"a text has a contrast of {seen['contrast']:.2f} only"] if seen["contrast"] < 4.5 else []
    wrong += [f"links lead nowhere: {seen['lost_anchors']}"] if seen["lost_anchors"] else []
    wrong += [f"{seen['invisible_pictures']} pictures are not seen"] if seen["invisible_pictures"] else []
    wrong += [] if seen["n_pictures"] else ["there are no pictures"]
    browser.session = None
    browser.ask("Target.closeTarget", targetId=target)
    return wrong, base64.b64decode(picture)


def complaint(event: dict[str, Any]) -> str | None:
    """What an event says against the page, or None."""
    method, said = event.get("method"), event.get("params", {})
    if method == "Runtime.consoleAPICalled":
        return f"console: {said['type']} {[a.get('value') for a in said['args']]}"
    if method == "Runtime.exceptionThrown":
        return f"exception: {said['exceptionDetails']['text']}"
    if method == "Log.entryAdded":
        return f"log: {said['entry']['level']} {said['entry']['text']}"
    if method == "Network.requestWillBeSent" and not said["request"]["url"].startswith(("file:", "data:")):
        return f"network: {said['request']['url'][:100]}"
    return None


def main(name: str, folder: str | None = None) -> int:
    """Look at every size in both schemes; returns the exit status."""
    page, n_wrong = pathlib.Path(name), 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(profile)
        try:
            for size, scheme in itertools.product(SIZES, ("light", "dark")):
                wrong, picture = look(browser, page, size, scheme)
                print(f"{page} on a {size}, {scheme}: {'; '.join(wrong) or 'fine'}")
                n_wrong += len(wrong)
                if folder:
                    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
                    (pathlib.Path(folder) / f"{size}-{scheme}.png").write_bytes(picture)
        finally:
            browser.close()
    return int(n_wrong > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
