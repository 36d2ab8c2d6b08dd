"""Registering with the stand-in kubelet, and what its streams do to what is allocatable."""

from __future__ import annotations

import grpc.aio
import pytest

from nodeagent.sim.kubelet import StandInKubelet
from tests.sim.conftest import MakePlugin
from tests.sim.plugin import RESOURCE
from tests.waiting import eventually


async def test_a_registered_plugins_list_becomes_allocatable(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """Register dials back, opens the stream, and the first message is the list of the resource."""
    tiny = await plugin("a", "b")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 2)
    assert [(entry.resource, entry.endpoint, entry.error) for entry in kubelet.registrations] == [
        (RESOURCE, tiny.endpoint, None)
    ]
    assert kubelet.history[0].devices == {"a": True, "b": True}
    assert kubelet.resources() == (RESOURCE,)


async def test_each_message_replaces_the_whole_list(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """Ids that a message does not name are gone; an empty list keeps the resource registered at 0."""
    tiny = await plugin("a", "b")
    await eventually(lambda: kubelet.capacity(RESOURCE) == 2)
    await tiny.send(["c"], ["d"])
    await eventually(lambda: kubelet.devices(RESOURCE) == {"c": True, "d": False})
    assert (kubelet.allocatable(RESOURCE), kubelet.capacity(RESOURCE)) == (1, 2)
    await tiny.send([])
    await eventually(lambda: kubelet.capacity(RESOURCE) == 0)
    assert kubelet.resources() == (RESOURCE,)


@pytest.mark.parametrize(
    ("version", "endpoint", "resource", "message"),
    [
        ("v1", None, RESOURCE, 'API version "v1" is not supported'),
        ("v1beta1", "sub/t.sock", RESOURCE, "not the base name of a socket"),
        ("v1beta1", None, "gpu", 'ResourceName "gpu" is invalid'),
        ("v1beta1", None, "kubernetes.io/gpu", "is invalid"),
        ("v1beta1", "absent.sock", RESOURCE, "failed to dial device plugin"),
    ],
)
async def test_a_bad_registration_is_refused(
    kubelet: StandInKubelet, plugin: MakePlugin, version: str, endpoint: str | None, resource: str, message: str
) -> None:
    """Another version, an endpoint that is a path or that nobody serves, and a name that is no extended resource are
    errors.
    """
    kubelet.dial_timeout = 0.2
    await kubelet.restart()
    tiny = await plugin("a", resource=resource, register=False)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await tiny.register(version=version, endpoint=endpoint)
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert message in (caught.value.details() or "")
    (record,) = kubelet.registrations
    assert message in (record.error or "")
    assert kubelet.resources() == ()


async def test_a_stream_that_ends_takes_all_devices_away_at_once_and_capacity_later(
    kubelet: StandInKubelet, plugin: MakePlugin
) -> None:
    """Allocatable is 0 when the stream has ended; capacity stays for the grace, and then the resource is forgotten."""
    tiny = await plugin("a", "b")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 2)
    await tiny.stop()
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 0)
    assert kubelet.capacity(RESOURCE) == 2
    assert kubelet.fewest(RESOURCE) == 0
    (end,) = kubelet.streams_ended
    assert not end.by_kubelet
    kubelet.grace = 0.0
    await eventually(lambda: kubelet.capacity(RESOURCE) == 0)
    assert kubelet.resources() == ()


async def test_of_two_streams_the_last_message_wins(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """Two plugins may serve one resource: both streams live, each message is the list, Allocate goes to the newest."""
    old = await plugin("a")
    await eventually(lambda: kubelet.devices(RESOURCE) == {"a": True})
    new = await plugin("b")
    await eventually(lambda: kubelet.devices(RESOURCE) == {"b": True})
    await old.send(["c"])
    await eventually(lambda: kubelet.devices(RESOURCE) == {"c": True})
    pod = await kubelet.admit("p", containers={"main": {RESOURCE: 1}})
    assert pod.ids() == {"c"}
    assert ("allocate", ("c",)) in new.asked
    assert old.asked == []
    assert [entry.over_live_stream for entry in kubelet.registrations] == [False, True]


async def test_the_end_of_an_old_stream_drops_the_new_client_too(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """When the older of two streams ends, all devices are gone although the new plugin lives, until it registers
    again.
    """
    old = await plugin("a")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    new = await plugin("b", "c")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 2)
    await old.stop()
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 0)
    await eventually(lambda: new.streams == 0)
    assert [end.by_kubelet for end in kubelet.streams_ended] == [False, True]
    await new.register()
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 2)


async def test_registering_twice_on_one_socket_is_as_bad(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """A repeated Register opens a second stream to the same plugin; when the first ends, everything is gone."""
    tiny = await plugin("a")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    await tiny.register()
    await eventually(lambda: tiny.streams == 2)
    await tiny.end_streams()
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 0 and tiny.streams == 0)


async def test_ending_the_old_stream_first_is_safe(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """A plugin whose stream has ended, and which registers then, is served as before."""
    tiny = await plugin("a")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    await tiny.end_streams()
    await eventually(lambda: kubelet.record.stream_end_count == 1)
    await tiny.register()
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)


async def test_after_a_failed_registration_the_older_plugins_death_goes_unnoticed(
    kubelet: StandInKubelet, plugin: MakePlugin
) -> None:
    """A Register that fails while an older plugin is connected makes the kubelet forget to notice that plugin's
    death.
    """
    kubelet.dial_timeout = 0.2
    await kubelet.restart()
    tiny = await plugin("a")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    with pytest.raises(grpc.aio.AioRpcError):
        await tiny.register(endpoint="absent.sock")
    await tiny.stop()
    await eventually(lambda: kubelet.record.stream_end_count == 1)
    assert kubelet.allocatable(RESOURCE) == 1


async def test_an_id_that_is_too_long_refuses_its_list(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """A list with an id of more than 63 characters changes nothing and is recorded as a broken rule."""
    tiny = await plugin("a" * 63)
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    await tiny.send(["b" * 64])
    await eventually(lambda: kubelet.violations)
    assert kubelet.devices(RESOURCE) == {"a" * 63: True}
    assert "63" in str(kubelet.violations[0])


async def test_a_list_over_four_mebibytes_ends_the_stream(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """The kubelet receives at most 4 MiB; a larger message costs the plugin its stream, and so all its devices."""
    tiny = await plugin("a")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    await tiny.send(f"{number:063}" for number in range(60_000))
    await eventually(lambda: kubelet.streams_ended)
    assert "ResourceExhausted" in kubelet.streams_ended[0].reason
    assert kubelet.allocatable(RESOURCE) == 0


async def test_forty_thousand_ids_fit(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """A list of 40,000 ids is taken, and one of them can be allocated."""
    ids = [f"GPU-00000000-0000-0000-0000-000000000000::{number}" for number in range(40_000)]
    tiny = await plugin(*ids)
    tiny.preferred = [ids[4321]]
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 40_000)
    pod = await kubelet.admit("p", containers={"main": {RESOURCE: 1}})
    assert pod.ids() == {ids[4321]}
