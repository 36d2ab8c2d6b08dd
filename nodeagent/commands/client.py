"""How commands ask an agent: one GET over HTTP, with a deadline, and errors that name the agent and the reason."""

from __future__ import annotations

import argparse
import json
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from typing import Any, Final
from urllib.parse import urlsplit

from nodeagent.report.status import API_VERSION, KIND

DEFAULT_AGENT: Final = "http://127.0.0.1:9400"
TIMEOUT: Final = 5.0

MOST: Final = 64 << 20
"""Bytes of a status, at most: 100,000 shares are 15 MB, and an agent of 0.1.0 may have more of them."""

_FREE: Final[dict[str, Any]] = {"state": "free", "held": False, "fenced": False, "holder": None, "heldSince": None}
"""Each share that is just free, where only that is of interest: not its number, nor its id."""

Status = dict[str, Any]
"""A status document, as `schemas/status-v1alpha1.json` describes it."""


class Unreachable(Exception):
    """The agent did not answer with a status. The message names the agent and the reason."""


def add_argument(parser: argparse._ActionsContainer) -> None:
    """Give a command the flag `--agent`."""
    parser.add_argument(
        "--agent",
        metavar="URL",
        type=agent_url,
        default=DEFAULT_AGENT,
        help=f"the agent to ask; host:port will do (default: {DEFAULT_AGENT})",
    )


def agent_url(text: str) -> str:
    """The base URL of an agent: `gpu-node-1:9400` is `http://gpu-node-1:9400`. For argparse."""
    url = (text if "://" in text else f"http://{text}").rstrip("/")
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise argparse.ArgumentTypeError(f"expected a URL such as {DEFAULT_AGENT}, got {text!r}")
    return url


def fetch_status(agent: str, timeout: float = TIMEOUT, *, whole: bool = False) -> Status:
    """The status of the agent at a URL from `agent_url`; `timeout` in seconds. Unless it is to be `whole` all free
    shares are one: a command that is run beside an agent shares the memory that its container may take, and a node may
    have very many. Raises Unreachable.
    """
    # An agent is on the node or in the cluster: a proxy for the outside world would only be in the way.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{agent}/status", timeout=timeout) as response:
            status = json.loads(_body(response, agent), object_hook=None if whole else _brief)
    except urllib.error.HTTPError as error:
        with error:
            body = error.read(200).decode("utf-8", "replace").strip().partition("\n")[0]
        raise Unreachable(f"cannot read the status of {agent}: {error.code} {error.reason}: {body}") from None
    except urllib.error.URLError as error:
        raise Unreachable(f"cannot reach the agent at {agent}: {_reason(error.reason)}") from None
    except (OSError, HTTPException) as error:
        raise Unreachable(f"cannot reach the agent at {agent}: {_reason(error)}") from None
    except (ValueError, RecursionError):
        raise Unreachable(f"cannot read the status of {agent}: what answers there is no nodeagent") from None
    if not isinstance(status, dict) or (status.get("apiVersion"), status.get("kind")) != (API_VERSION, KIND):
        raise Unreachable(f"cannot read the status of {agent}: expected a {KIND} {API_VERSION}")
    return status


def _body(response: HTTPResponse, agent: str) -> bytes:
    body = response.read(MOST + 1)
    if len(body) > MOST:
        raise Unreachable(f"cannot read the status of {agent}: it has more than {MOST >> 20} MiB")
    return body


def _brief(found: dict[str, Any]) -> dict[str, Any]:
    """An object of the status; one that stands for it where it is a free share."""
    is_free = "holder" in found and all(found.get(key) == value for key, value in _FREE.items())
    return _FREE if is_free else found


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
