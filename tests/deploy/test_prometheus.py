"""A real Prometheus scrapes a real agent with the shipped rules, and is asked what alerts and dashboard ask it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.agent.harness import NODE_NAME, free_port, uuid
from tests.deploy.agent_metrics import POOL, SICK, WITHIN, busy_agent, trouble
from tests.deploy.test_dashboard import expressions, substituted, variable_queries
from tests.deploy.test_monitoring import ALERTS, RECORDS, RULES
from tests.waiting import eventually, longer

EMPTY = {"Alerts that fire"}
"""Panels that rightly have nothing to show: no alert fires within seconds."""


@pytest.fixture
def prometheus(promtool: Path) -> Path:
    """The path of Prometheus itself, which comes with promtool."""
    program = promtool.resolve().with_name("prometheus")
    if not os.access(program, os.X_OK):
        message = f"there is no prometheus beside {promtool.resolve()}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return program


class Prometheus:
    """One that runs, on a port of the loopback."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector that an expression gives now."""
        data = await self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        assert data["resultType"] == "vector", expression
        found: list[dict[str, Any]] = data["result"]
        return found

    async def rules(self) -> dict[str, dict[str, Any]]:
        """All rules by name, with their health."""
        groups = (await self._get("/api/v1/rules"))["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    async def _get(self, path: str) -> Any:  # noqa: ANN401 - JSON
        def get() -> Any:  # noqa: ANN401 - JSON
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=longer(30)) as response:
                return json.load(response)["data"]

        return await asyncio.to_thread(get)


@asynccontextmanager
async def running(program: Path, folder: Path, agent_port: int) -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes and evaluates every second, with the shipped rules, and one target that has the labels
    which the PodMonitor gives.
    """
    fast = {"groups": [{key: value for key, value in group.items() if key != "interval"} for group in RULES["groups"]]}
    (folder / "rules.yaml").write_text(yaml.safe_dump(fast), "utf-8")
    labels = {
        "node": NODE_NAME,
        "pool": POOL,
        "namespace": f"nodeagent-{POOL}",
        "pod": "nodeagent-x",
        "endpoint": "http",
    }
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [
            {
                "job_name": "nodeagent",
                "honor_labels": True,
                "static_configs": [{"targets": [f"127.0.0.1:{agent_port}"], "labels": labels}],
            }
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config), "utf-8")
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program,
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield Prometheus(port)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), longer(15))
        except TimeoutError:
            process.kill()
            await process.wait()
        said = (folder / "prometheus.log").read_text("utf-8")
        assert "level=error" not in said, said


async def test_a_real_prometheus_answers_what_rules_and_dashboard_ask(
    prometheus: Path, mps_control: Path, tmp_path: Path
) -> None:
    """Every rule evaluates, every recorded series and every panel has data of an agent that is busy and in trouble, and
    alerts that hold are on their way, with their node and pool and nothing of a pod.
    """
    async with busy_agent(mps_control) as (node, agent), running(prometheus, tmp_path, agent.port) as server:

        async def scraped() -> bool:
            try:
                return bool(await server.query("count_over_time(nodeagent_in_sync[5m]) > 2"))
            except OSError as error:
                raise AssertionError(f"not answering yet: {error}") from error

        await eventually(scraped, WITHIN, every=0.2)
        assert len(await server.query('pool_state:nodeagent_nodes:count{state="in-sync"} == 1')) == 1

        await trouble(node, agent)
        accepted = (await agent.status())["config"]["desired"]["gitBlob"]

        async def evaluated() -> bool:
            rules = await server.rules()
            assert rules.keys() == ALERTS.keys() | RECORDS.keys()
            unwell = {name: rule.get("lastError") for name, rule in rules.items() if rule["health"] != "ok"}
            assert not unwell, unwell
            failed = await server.query('pool_kind:nodeagent_drift:count{kind="hardware"} == 1')
            rejected = await server.query("pool_result:nodeagent_config_reloads:increase5m{result='rejected'} > 0")
            blobs = await server.query(f"pool_state_git_blob:nodeagent_config_info:count{{git_blob='{accepted}'}}")
            return bool(failed and rejected and blobs)

        await eventually(evaluated, WITHIN, every=0.2)

        # Every recorded series that an agent which is there can have, with the labels that its name says.
        recorded = {name: await server.query(name) for name in RECORDS}
        assert {name for name, series in recorded.items() if not series} == {"pool_node:nodeagent_up:absent"}
        for name, series in recorded.items():
            for one in series:
                labels = [label for label in one["metric"] if label != "__name__"]
                assert sorted(labels) == sorted(parts(name, labels)), name
                assert one["metric"]["pool"] == POOL

        # Every panel and every variable.
        values = {"pool": ".*", "node": NODE_NAME}
        shown = {title: await server.query(text) for title, text in expressions(values)}
        assert {title for title, series in shown.items() if not series} <= EMPTY
        for source, label in variable_queries():
            found = await server.query(substituted(source, values))
            assert {one["metric"][label] for one in found} == {{"pool": POOL, "node": NODE_NAME}[label]}

        # The GPU that failed is told of as such, and not as drift too. Drift of the document has begun to last; that of
        # the shares is a drain.
        async def pending() -> bool:
            alerts = [alert["labels"] for rule in (await server.rules()).values() for alert in rule.get("alerts", ())]
            where = {"pool": POOL, "node": NODE_NAME, "severity": "warning", "scope": "node"}
            assert sorted(alerts, key=lambda labels: str(labels["alertname"])) == [
                where | {"alertname": "NodeagentDriftLasting", "kind": "config"},
                where | {"alertname": "NodeagentGpuUnhealthy", "uuid": uuid(SICK)},
            ], alerts
            return True

        await eventually(pending, WITHIN, every=0.5)


def parts(record: str, labels: list[str]) -> list[str]:
    """The labels of a series that its name has, in the order of the name; all of it must be made of them."""
    rest, found = record.partition(":")[0], []
    while rest:
        label = next(label for label in sorted(labels, key=len, reverse=True) if f"{rest}_".startswith(f"{label}_"))
        found.append(label)
        rest = rest[len(label) + 1 :]
    return found
