"""The status page in a real browser: it follows the node by itself, and disturbs nobody who reads it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.model.snapshot import Snapshot
from nodeagent.report import page as page_module
from nodeagent.report.page_style import STYLE
from nodeagent.report.times import ago
from tests.report import builders
from tests.report.browser import Browser
from tests.report.served import Served
from tests.waiting import eventually_sync, longer

STATES = {
    "in sync": builders.snapshot(),
    "everything at once": builders.troubled(),
    "mps": builders.sharing_by_mps(),
    "mig": builders.partitioned(),
    "very many shares": builders.large(),
    "a hundred shares": builders.snapshot(
        builders.gpu_status(builders.gpu(0), "u" * 100),
        builders.gpu_status(builders.gpu(1), "h" * 30 + "d" * 10 + "x" * 20 + "f" * 40),
    ),
    "sixteen gpus": builders.snapshot(*(builders.gpu_status(builders.gpu(index), "hhhfffffff") for index in range(16))),
}

TEXT = "document.querySelector('main').innerText"
"""What can be seen."""

CONTRASTS = """
(() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  for (const details of document.querySelectorAll('details')) details.open = true;
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.getClientRects().length) continue;
    const pair = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
    found.push([walker.currentNode.data, (pair[0] + 0.05) / (pair[1] + 0.05)]);
  }
  return found;
})()
"""


@pytest.fixture
def served() -> Iterator[Served]:
    """Serve a node in sync."""
    found = Served()
    found.server.start()
    yield found
    found.server.close()


@pytest.fixture(scope="module")
def chromium_window(chromium: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all of these."""
    with Browser(chromium, tmp_path_factory.mktemp("p")) as found:
        yield found


@pytest.fixture
def browser(chromium_window: Browser) -> Browser:
    """A window of the usual size that has shown nothing yet."""
    chromium_window.look()
    chromium_window.call("Emulation.setScriptExecutionDisabled", value=False)
    chromium_window.open("about:blank")
    chromium_window.complaints.clear()
    return chromium_window


def url(served: Served) -> str:
    """Where the page is."""
    return f"http://127.0.0.1:{served.server.port}/"


def says(browser: Browser, text: str) -> bool:
    """Whether it can be read on the page."""
    return text in browser.evaluate(TEXT)


def statuses(browser: Browser) -> list[int]:
    """The answers that the script has got, the oldest first."""
    found: list[int] = browser.evaluate("performance.getEntriesByType('resource').map(entry => entry.responseStatus)")
    return found


# --- it follows ---


def test_an_address_with_a_password_is_followed_too(served: Served, browser: Browser) -> None:
    """As one opens a page behind a proxy that asks for one: a script may not ask for such an address."""
    browser.open(url(served).replace("http://", "http://user:secret@"))
    eventually_sync(lambda: statuses(browser)[:1] == [200])
    assert browser.evaluate("document.getElementById('away').hidden") is True


def test_two_versions_at_one_address_are_no_endless_reload(
    served: Served, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Service over agents in a rollout answers by turns: one reload a minute, until then what is new is shown."""
    browser.open(url(served))
    eventually_sync(lambda: statuses(browser)[:1] == [200])
    monkeypatch.setattr(page_module, "STYLE", STYLE + " ")
    served.snapshot = builders.troubled()
    eventually_sync(lambda: browser.evaluate("sessionStorage.getItem('reloaded') !== null"))
    eventually_sync(lambda: statuses(browser)[:1] == [200])
    browser.evaluate("window.same = true")
    monkeypatch.setattr(page_module, "STYLE", STYLE)
    served.snapshot = builders.snapshot()
    eventually_sync(lambda: not says(browser, "newest document"))
    assert browser.evaluate("window.same") is True


def test_a_change_is_shown_within_a_second_and_without_a_reload(served: Served, browser: Browser) -> None:
    """The verdict, the cards and the title change in the page that is open; its policy has nothing against it."""
    browser.open(url(served))
    browser.evaluate("window.same = true")
    eventually_sync(lambda: statuses(browser)[:1] == [200])
    served.snapshot = builders.troubled()
    began = time.monotonic()
    eventually_sync(lambda: says(browser, "2 errors in the newest document"))
    assert time.monotonic() - began < longer(1.0)
    assert says(browser, "the GPU fell off the bus")
    assert browser.evaluate("document.title") == "✗ gpu-node-1 - nodeagent"
    served.snapshot = builders.snapshot()
    eventually_sync(lambda: not says(browser, "newest document"))
    assert browser.evaluate("window.same") is True
    assert browser.evaluate("performance.getEntriesByType('navigation').length") == 1
    assert browser.complaints == []


@pytest.mark.parametrize("after", STATES)
@pytest.mark.parametrize("before", ["everything at once", "mig"])
def test_what_is_taken_over_is_what_a_reload_would_show(
    served: Served, browser: Browser, before: str, after: str
) -> None:
    """From whichever state to whichever other one: the same elements, in the same order."""
    served.snapshot = STATES[before]
    browser.open(url(served))
    number = len(statuses(browser))
    eventually_sync(lambda: len(statuses(browser)) > number)
    served.snapshot = STATES[after]
    fresh = "fetch('').then(answer => answer.text()).then(text => new DOMParser().parseFromString(text, 'text/html'))"
    # Whether details are open is the reader's affair.
    parts = ".forEach(one => { one.querySelectorAll('details').forEach(other => other.removeAttribute('open')) })"
    same = (
        f"{fresh}.then(page => {{ const all = [page, document].map(one => one.querySelector('main').cloneNode(true)); "
        f"all{parts}; return all[0].isEqualNode(all[1]) }})"
    )
    eventually_sync(lambda: browser.evaluate(same))
    assert browser.complaints == []


def test_whoever_reads_is_not_disturbed(served: Served, browser: Browser) -> None:
    """What is open or closed stays so, and so do the focus, a selection and how far somebody has scrolled, though
    sections and GPUs come and go above.
    """
    browser.look(height=400)
    served.snapshot = builders.snapshot(*(builders.gpu_status(builders.gpu(index), "hf") for index in (1, 2)))
    browser.open(url(served))
    closed, uuid = "document.querySelector('article details')", builders.gpu(2).uuid
    browser.evaluate(f"{closed}.open = false; document.querySelector('#normal').open = true")
    browser.evaluate("document.querySelector('#normal summary').focus()")
    browser.evaluate(f"getSelection().selectAllChildren(document.getElementById('pods-{uuid}'))")
    browser.evaluate("document.querySelector('#documents').scrollIntoView()")
    selected = browser.evaluate("getSelection().toString()")
    assert "team-a/worker-2-0" in selected
    base = builders.troubled()
    served.snapshot = replace(
        base, gpus=tuple(builders.gpu_status(builders.gpu(index), "hf") for index in range(4)), drift=()
    )
    eventually_sync(lambda: says(browser, "errors in the newest document"))
    assert browser.evaluate("document.querySelectorAll('article').length") == 4
    assert browser.evaluate(f"document.getElementById('pods-{builders.gpu(1).uuid}').open") is False
    assert browser.evaluate("document.querySelector('#normal').open") is True
    assert browser.evaluate("document.activeElement === document.querySelector('#normal summary')") is True
    assert browser.evaluate("getSelection().toString()") == selected
    assert browser.evaluate("scrollY") > 0


def test_ages_go_on_though_nothing_changes(served: Served, browser: Browser) -> None:
    """The script counts them as the server does."""
    browser.open(url(served))
    before = browser.evaluate("document.querySelector('header time').textContent")
    browser.evaluate("shown -= 7200000; tick()")
    assert (before, browser.evaluate("document.querySelector('header time').textContent")) == ("1 h", "3 h")
    seconds = [-5, 0, 59.9, 60, 3599, 3600, 7500, 86_399, 86_400, 270_000, 8_640_000.5]
    assert browser.evaluate(f"{seconds}.map(ago)") == [ago(one) for one in seconds]


# --- it costs little ---


def test_nothing_is_sent_while_nothing_changes(served: Served, browser: Browser) -> None:
    """The page comes once, and then the answer is that it is still the same; one request at a time."""
    browser.open(url(served))
    eventually_sync(lambda: len(statuses(browser)) >= 4)
    assert statuses(browser)[:4] == [200, 304, 304, 304]
    assert browser.evaluate(
        "performance.getEntriesByType('resource').every((one, index, all) => "
        "!index || one.startTime >= all[index - 1].responseEnd + 400)"
    )


def test_nothing_is_asked_while_nobody_looks(served: Served, browser: Browser) -> None:
    """A page in a tab behind others is silent; when it comes to the front it is up to date at once."""
    browser.open(url(served))
    eventually_sync(lambda: len(statuses(browser)) >= 2)
    hide = "Object.defineProperty(document, 'hidden', {configurable: true, get: () => %s}); "
    tell = "document.dispatchEvent(new Event('visibilitychange'))"
    browser.evaluate(hide % "true" + tell)
    eventually_sync(lambda: browser.evaluate("!asking"))
    served.snapshot = builders.troubled()
    asked = len(statuses(browser))
    browser.evaluate("new Promise(done => setTimeout(done, 1500))")
    assert len(statuses(browser)) == asked
    assert says(browser, "In sync")
    browser.evaluate(hide % "false" + tell)
    eventually_sync(lambda: says(browser, "errors in the newest document"))


# --- nobody answers ---


def test_an_agent_that_is_away_is_told_with_since_when(served: Served, browser: Browser) -> None:
    """In an alert and in the title; what was known stays. When it is back the alert goes, and the page is as it is."""
    browser.open(url(served))
    eventually_sync(lambda: len(statuses(browser)) >= 2)
    port, shown = served.server.port, "document.getElementById('away').checkVisibility()"
    assert not browser.evaluate(shown)
    served.server.close()
    eventually_sync(lambda: browser.evaluate(shown))
    told = browser.evaluate("document.getElementById('away').innerText")
    since = browser.evaluate("new Date(heard).toLocaleString()")
    assert told == f"Nothing new since {since}: the agent does not answer. This page shows what was so then."
    assert browser.evaluate("document.title") == "? gpu-node-1 - nodeagent"
    assert says(browser, "In sync")

    again = Served(listen=f"127.0.0.1:{port}", snapshot=None)
    again.server.start()
    try:
        eventually_sync(lambda: "answers 503" in browser.evaluate("document.getElementById('away').innerText"))
        again.snapshot = builders.troubled()
        eventually_sync(lambda: not browser.evaluate(shown))
        assert says(browser, "errors in the newest document")
        assert browser.evaluate("document.title") == "✗ gpu-node-1 - nodeagent"
    finally:
        again.server.close()


def test_a_page_of_another_version_is_loaded_anew(
    served: Served, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that was upgraded meanwhile has another script, which the old one leaves the page to."""
    browser.open(url(served))
    browser.evaluate("window.same = true")
    monkeypatch.setattr(page_module, "STYLE", STYLE + " ")
    served.snapshot = builders.snapshot()
    eventually_sync(lambda: browser.evaluate("window.same === undefined"))


# --- without the script ---


def test_without_its_script_the_page_is_whole(
    served: Served, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is there at once, and after a while it is loaded anew."""
    monkeypatch.setattr(page_module, "REFRESH_SECONDS", 1)
    served.snapshot = builders.troubled()
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.call("Page.navigate", url=url(served))

    def html() -> str:
        node = browser.call("DOM.getDocument")["root"]["nodeId"]
        found: str = browser.call("DOM.getOuterHTML", nodeId=node)["outerHTML"]
        return found

    eventually_sync(lambda: "2 errors in the newest document" in html())
    for expected in ("the GPU fell off the bus", "12 of 18 are as they should be", "refreshes every 1 s"):
        assert expected in html()
    served.snapshot = builders.snapshot()
    eventually_sync(lambda: "All 18 are as they should be" in html())
    assert browser.complaints == []


# --- how it looks ---


def test_sixteen_gpus_are_seen_without_scrolling(served: Served, browser: Browser) -> None:
    """On the screen of a laptop all of them, with their shares."""
    served.snapshot = STATES["sixteen gpus"]
    browser.open(url(served))
    seen = "[...document.querySelectorAll('article')].filter(one => one.getBoundingClientRect().bottom < innerHeight)"
    assert browser.evaluate(f"{seen}.length") == 16


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES)
def test_every_text_can_be_read(served: Served, browser: Browser, state: str, scheme: str) -> None:
    """Its contrast with what is behind it is 4.5 at least, whatever is open, and nothing is wider than its window."""
    served.snapshot = STATES[state]
    browser.look(prefers_color_scheme=scheme)
    browser.open(url(served))
    found = browser.evaluate(CONTRASTS)
    assert len(found) > 40
    assert [(text, ratio) for text, ratio in found if ratio < 4.5] == []
    for width in (320, 400, 800, 1280, 2560):
        browser.look(width=width, prefers_color_scheme=scheme)
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
    assert browser.complaints == []


def test_long_words_stay_within_the_window(served: Served, browser: Browser) -> None:
    """Names and messages of any length, without a place to break them, are broken."""
    long = "x" * 250
    base = builders.troubled()
    served.snapshot = replace(
        base,
        node=long,
        pool=long,
        config=replace(
            base.config,
            path=f"/{long}",
            newest=replace(builders.document(name=long), revision=long),
            problem=long,
            notes=(long,),
            violations=(builders.violation(long),) * 9,
        ),
        gpus=tuple(
            replace(
                one,
                rule=long,
                gpu=replace(one.gpu, message=long, model=long),
                contract=None if one.contract is None else replace(one.contract, resource=f"nvidia.com/{long}"),
                shares=tuple(replace(share, holder=f"{long}/{long}/main") for share in one.shares),
            )
            for one in base.gpus
        ),
        conditions=builders.conditions(Ready=(False, long, long), MpsReady=(False, "DaemonFailed", long)),
        drift=tuple(replace(one, subject=long, want=long, have=long) for one in base.drift),
        reloads=tuple(replace(one, message=long) for one in base.reloads),
        resources=tuple(replace(one, resource=f"nvidia.com/{long}") for one in base.resources),
    )
    browser.open(url(served))
    browser.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    wide = "[...document.querySelectorAll('main *')].filter(one => one.getBoundingClientRect().right > innerWidth && "
    wide += "!one.closest('.scroll')).map(one => one.outerHTML.slice(0, 60))"
    for width in (320, 400, 1280):
        browser.look(width=width)
        assert browser.evaluate(wide) == [], width
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), width


def test_states_can_be_told_apart_in_forced_colours(served: Served, browser: Browser) -> None:
    """Where a system puts its own colours over those of the page, shares keep theirs, and what is behind them."""
    served.snapshot = builders.troubled()
    browser.look(forced_colors="active")
    browser.open(url(served))
    look = "(({backgroundColor, backgroundImage, borderColor}) => backgroundColor + backgroundImage + borderColor)"
    states = "['free', 'held', 'draining', 'fenced', 'unhealthy']"
    looks = browser.evaluate(f"{states}.map(one => {look}(getComputedStyle(document.querySelector('.share.' + one))))")
    assert len(set(looks)) == 5
    browser.look()
    assert looks == browser.evaluate(
        f"{states}.map(one => {look}(getComputedStyle(document.querySelector('.share.' + one))))"
    )


def test_a_part_of_a_bar_is_as_wide_as_its_part_of_the_shares(served: Served, browser: Browser) -> None:
    """And very few can be seen all the same; what is unhealthy has a pattern of its own size, however long the bar."""
    states: Snapshot = builders.snapshot(
        builders.gpu_status(builders.gpu(0), "h" * 75 + "f" * 25), builders.gpu_status(builders.gpu(1), "f" * 999 + "h")
    )
    served.snapshot = states
    browser.open(url(served))
    widths = browser.evaluate(
        "[...document.querySelectorAll('.bar')].map(bar => "
        "[...bar.children].map(one => one.getBoundingClientRect().width))"
    )
    (free, held), (most, one) = widths
    assert held / free == pytest.approx(3, rel=0.05)
    assert 4 <= one < most / 20


def test_it_can_be_printed(served: Served, browser: Browser) -> None:
    """On white, with the patterns of the shares and with what is folded up; without links that lead nowhere."""
    served.snapshot = builders.troubled()
    browser.look(prefers_color_scheme="dark", media="print")
    browser.open(url(served))
    assert browser.evaluate("getComputedStyle(document.querySelector('section')).backgroundColor") == (
        "rgb(255, 255, 255)"
    )
    style = "getComputedStyle(document.querySelector('.share'))"
    assert browser.evaluate(f"{style}.printColorAdjust || {style}.webkitPrintColorAdjust") == "exact"
    assert browser.evaluate("document.querySelector('#normal table').checkVisibility()")
    assert not browser.evaluate("document.querySelector('footer').checkVisibility()")


def test_it_can_be_used_by_keyboard(served: Served, browser: Browser) -> None:
    """With the tab key everything that can be opened, scrolled or followed is reached, in its order."""
    served.snapshot = builders.troubled()
    browser.open(url(served))
    reached = []
    for _ in range(40):
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.append(browser.evaluate("document.activeElement.tagName + document.activeElement.textContent"))
        if reached[-1] == "Areadiness":
            break
    assert [one for one in reached if one.startswith("SUMMARYheld by")] == [
        "SUMMARYheld by 6 pods", "SUMMARYheld by 2 pods", "SUMMARYheld by 1 pod"
    ]  # fmt: skip
    assert "SUMMARY12 of 18 are as they should be" in reached
    assert sum(one.startswith("DIV") for one in reached) == 5
    assert reached[-3:] == ["Astatus as JSON", "Ametrics", "Areadiness"]


@pytest.mark.parametrize("width", [400, 1280])
def test_a_screen_reader_finds_its_way(served: Served, browser: Browser, width: int) -> None:
    """Every table, picture and region has a name, every column and row a head, on a phone too, where a table does not
    look like one; the verdict is a status, which is read when it changes.
    """
    served.snapshot = builders.troubled()
    browser.look(width=width)
    browser.open(url(served))
    nodes = [node for node in browser.call("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    roles = Counter(node["role"]["value"] for node in nodes)
    named = {"table", "image", "region", "link", "columnheader", "rowheader", "heading", "DisclosureTriangle"}
    assert [node for node in nodes if node["role"]["value"] in named and not node["name"]["value"]] == []
    assert roles["table"] == roles["caption"] == roles["region"] == 5
    assert roles["columnheader"] == 24
    assert roles["rowheader"] == 19
    assert roles["image"] == 4
    assert roles["status"] == roles["main"] == roles["contentinfo"] == 1
