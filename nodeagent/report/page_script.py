"""The script of the status page: it asks for the page anew, and takes over what has changed.

One small request at a time, half a second after the last answer, with the `ETag` of what is shown: the agent answers
304 as long as nothing has changed. Nothing is asked while nobody can see the page. What has not changed stays the very
element that it was, so that the focus, what is selected, what was scrolled and which details are open outlast a change.
Without the script the page is whole, and loaded anew from time to time (`page.py`).
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

SCRIPT: Final = r"""
'use strict';
const main = document.querySelector('main'), away = document.getElementById('away');
let tag = '', failed = 0, timer = 0, asking = false, heard = Date.now(), shown = Date.now(), title = document.title;

function ago(seconds) {
  const whole = Math.max(0, Math.floor(seconds)), minutes = Math.floor(whole / 60), hours = Math.floor(minutes / 60);
  const two = (many, of, few, also) => many + of + (few ? ' ' + few + also : '');
  if (whole < 60) return whole + ' s';
  if (minutes < 60) return minutes + ' min';
  return hours < 24 ? two(hours, ' h', minutes % 60, ' min') : two(Math.floor(hours / 24), ' d', hours % 24, ' h');
}

function tick() {
  const now = Number(main.dataset.now) + (Date.now() - shown) / 1000;
  for (const time of main.querySelectorAll('time')) {
    const text = ago(now - Date.parse(time.dateTime) / 1000);
    if (time.textContent !== text) time.firstChild.data = text;
  }
}

const kind = node => node.id || node.nodeName;

function become(old, wanted) {
  if (old.isEqualNode(wanted)) return;
  if (old.nodeType !== Node.ELEMENT_NODE) { old.data = wanted.data; return; }
  const own = name => name === 'open' && old.localName === 'details';
  for (const {name, value} of wanted.attributes) {
    if (old.getAttribute(name) !== value && !own(name)) old.setAttribute(name, value);
  }
  for (const {name} of [...old.attributes]) if (!wanted.hasAttribute(name) && !own(name)) old.removeAttribute(name);
  const stay = new Set([...wanted.children].map(child => child.id));
  for (const child of [...old.children]) if (child.id && !stay.has(child.id)) child.remove();
  let at = old.firstChild;
  for (const child of [...wanted.childNodes]) {
    if (at && kind(at) === kind(child)) {
      become(at, child);
      at = at.nextSibling;
      continue;
    }
    const known = child.id && [...old.children].find(other => other.id === child.id);
    if (known) become(known, child);
    old.insertBefore(known || child, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

// Two versions may answer at one address, by turns: not more than once a minute, and never where nothing is remembered.
function reloads() {
  try {
    const last = Number(sessionStorage.getItem('reloaded')), now = Date.now();
    if (last && now - last >= 0 && now - last < 60000) return false;
    sessionStorage.setItem('reloaded', now);
  } catch (error) {
    return false;
  }
  location.reload();
  return true;
}

function show(text) {
  const page = new DOMParser().parseFromString(text, 'text/html');
  const same = name => document.querySelector(name).textContent === page.querySelector(name).textContent;
  if ((!same('#look') || !same('#script')) && reloads()) return;
  shown = Date.now();
  title = page.title;
  become(main, page.querySelector('main'));
}

function miss(why) {
  failed += 1;
  if (failed < 2) return;
  const text = 'Nothing new since ' + new Date(heard).toLocaleString() + ': the agent ' + why +
    '. This page shows what was so then.';
  if (away.textContent !== text) away.textContent = text;
  away.hidden = false;
  document.title = '? ' + title.replace(/^\S /, '');
}

async function ask() {
  asking = true;
  try {
    // Not `''`: that has the name and password of the address that was opened, which fetch refuses to take.
    const here = location.origin + location.pathname + location.search;
    const answer = await fetch(here, {cache: 'no-store', headers: tag ? {'If-None-Match': tag} : {},
      signal: AbortSignal.timeout(5000)});
    if (answer.status === 200) {
      show(await answer.text());
      tag = answer.headers.get('ETag') || '';
    }
    if (answer.status === 200 || answer.status === 304) {
      failed = 0;
      heard = Date.now();
      away.hidden = true;
      document.title = title;
    } else {
      miss('answers ' + answer.status);
    }
  } catch (error) {
    miss('does not answer');
  }
  asking = false;
  next(failed ? 1000 : 500);
}

function next(delay) {
  clearTimeout(timer);
  if (!document.hidden && !asking) timer = setTimeout(ask, delay);
}

document.addEventListener('visibilitychange', () => { tick(); next(0); });
setInterval(() => document.hidden || tick(), 1000);
next(500);
""".strip()


def source(text: str) -> str:
    """An inline script or style as a Content-Security-Policy allows that very one: `'sha256-…'`."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
