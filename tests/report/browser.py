"""A headless Chromium that is driven over its DevTools protocol, by a pipe: no port, and no package for it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.waiting import eventually_sync, longer

_ANSWERS_WITHIN = 60.0


class Browser:
    """One window. Sizes are in CSS pixels."""

    def __init__(self, chromium: Path, folder: Path) -> None:
        theirs, self._to = os.pipe()
        self._from, ours = os.pipe()
        # Chromium reads its commands from descriptor 3 and answers on 4.
        begin = f'exec "$@" 3</proc/self/fd/{theirs} 4>/proc/self/fd/{ours}'
        self._process = subprocess.Popen(
            [
                "sh", "-c", begin, "sh", str(chromium), "--headless", "--no-sandbox", "--disable-gpu",
                "--hide-scrollbars", "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank",
            ],
            pass_fds=(theirs, ours),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        os.close(ours)
        os.set_blocking(self._from, False)
        self._buffer = b""
        self._numbers = count(1)
        self._session: dict[str, str] = {}
        self.complaints: list[str] = []
        """What the page has logged: violations of its policy, errors of its script, requests that failed."""

        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait(longer(_ANSWERS_WITHIN))
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Give one command, and return its result."""
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": parameters, **self._session}
        os.write(self._to, json.dumps(command).encode() + b"\0")
        answers: list[dict[str, Any]] = []

        def answered() -> bool:
            answers.extend(message for message in self._read() if message.get("id") == number)
            return bool(answers)

        eventually_sync(answered, within=_ANSWERS_WITHIN)
        assert "error" not in answers[0], answers[0]
        result: dict[str, Any] = answers[0]["result"]
        return result

    def evaluate(self, expression: str) -> Any:  # noqa: ANN401 - it is whatever the page has
        """What a JavaScript expression of the page is, as JSON could say it."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def open(self, url: str) -> None:
        """Go there, and wait until everything has been loaded."""
        loader = self.call("Page.navigate", url=url).get("loaderId")
        eventually_sync(
            lambda: (
                self.call("Page.getFrameTree")["frameTree"]["frame"]["loaderId"] == loader
                and self.evaluate("document.readyState") == "complete"
            ),
            within=_ANSWERS_WITHIN,
        )

    def look(self, width: int = 1280, height: int = 800, **media: str) -> None:
        """How large the window is, and which `media`: `prefers_color_scheme="dark"`, `media="print"`."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        kind = media.pop("media", "screen")
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self.call("Emulation.setEmulatedMedia", media=kind, features=features)

    def _read(self) -> list[dict[str, Any]]:
        try:
            self._buffer += os.read(self._from, 1 << 20)
        except BlockingIOError:
            return []
        *whole, self._buffer = self._buffer.split(b"\0")
        messages = [json.loads(message) for message in whole]
        self.complaints += [text for message in messages if (text := _complaint(message))]
        return messages


def _complaint(message: Mapping[str, Any]) -> str:
    parameters = message.get("params", {})
    if message.get("method") == "Log.entryAdded":
        return str(parameters["entry"]["text"])
    if message.get("method") == "Runtime.exceptionThrown":
        return str(parameters["exceptionDetails"])
    return ""
