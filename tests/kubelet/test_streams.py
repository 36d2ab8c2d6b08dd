"""Which stream is the kubelet's: told by the moment in which it opens."""

from __future__ import annotations

import pytest

from nodeagent.kubelet.streams import CANDIDATES, GUESTS, SETTLE, Stream, Streams


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The clock of `streams`."""
    return Clock()


@pytest.fixture
def streams(clock: Clock) -> Streams:
    """The streams of a socket before its Register."""
    return Streams(clock)


def opened(streams: Streams) -> Stream:
    """A stream that is taken in."""
    stream = streams.open()
    assert stream is not None
    return stream


def test_the_kubelets_is_the_one_that_opens_with_register(streams: Streams, clock: Clock) -> None:
    """What opens before Register or after it has settled is a guest's, and changes nothing of the kubelet's."""
    before = opened(streams)
    assert (before.guest, streams.live, streams.seen) == (True, False, False)
    streams.expect()
    kubelets = opened(streams)
    streams.registered()
    clock.now += SETTLE
    after = opened(streams)
    assert (kubelets.guest, after.guest, streams.live, streams.settled) == (False, True, True, True)
    kubelets.sent = (7, 0)
    assert streams.sent_revision == 7
    streams.close(before)
    streams.close(after)
    assert (streams.live, streams.doubts) == (True, 0)
    streams.close(kubelets)
    assert (streams.live, streams.seen, streams.sent_revision) == (False, True, 0)


def test_a_kubelet_that_is_late_gets_in(streams: Streams, clock: Clock) -> None:
    """While none is the kubelet's, the next one is, however long ago Register was answered."""
    streams.expect()
    streams.registered()
    clock.now += 60 * SETTLE
    assert not opened(streams).guest
    assert opened(streams).guest


def test_what_opens_when_the_kubelets_has_ended_is_a_guests(streams: Streams, clock: Clock) -> None:
    """The kubelet opens no second one on a socket: whoever comes first must not hide that its stream is gone."""
    streams.expect()
    kubelets = opened(streams)
    streams.registered()
    clock.now += 60 * SETTLE
    streams.close(kubelets)
    assert opened(streams).guest
    assert not streams.live


def test_a_kubelet_that_comes_back_within_the_moment_gets_in(streams: Streams, clock: Clock) -> None:
    """What has ended there may have been a guest's."""
    streams.expect()
    streams.registered()
    streams.close(opened(streams))
    clock.now += SETTLE / 2
    assert not opened(streams).guest


def test_guests_have_a_bound_that_is_not_the_kubelets(streams: Streams) -> None:
    """A guest too many is refused, and the kubelet is let in whatever guests there are. A guest that leaves makes room
    for another one.
    """
    guests = [opened(streams) for _ in range(GUESTS)]
    assert streams.open() is None
    streams.expect()
    assert not opened(streams).guest
    assert streams.doubts == 0
    streams.close(guests[0])
    streams.registered()
    assert not opened(streams).guest  # one that cannot be told from the kubelet's


def test_streams_that_cannot_be_told_apart_all_count_and_raise_a_doubt(streams: Streams) -> None:
    """The end of one of several is a doubt; of the last one, the end. One that is not read holds up no revision."""
    streams.expect()
    first, second = opened(streams), opened(streams)
    streams.registered()
    first.sent = (3, 0)
    assert streams.sent_revision == 3
    streams.close(first)
    assert (streams.live, streams.doubts) == (True, 1)
    streams.close(second)
    assert (streams.live, streams.doubts) == (False, 1)


def test_one_that_may_have_been_the_kubelets_is_not_refused_silently(streams: Streams) -> None:
    """Even they have a bound; whom it hits may be the kubelet, which is a doubt."""
    streams.expect()
    for _ in range(CANDIDATES):
        opened(streams)
    assert streams.open() is None
    assert streams.doubts == 1
