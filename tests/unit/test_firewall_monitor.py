"""The monitor of the firewall, with nftables' news and rules as the test has them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from kvmigd.config import Config, Listen
from kvmigd.errors import KvmigdError
from kvmigd.host.files import Files
from kvmigd.host.firewall import iptables, legacy
from kvmigd.host.firewall import monitor as module
from kvmigd.host.firewall.child import Children
from kvmigd.host.firewall.dump import DumpFailed, Reader, Rules
from kvmigd.host.firewall.firewalld import Bus, Known
from kvmigd.host.firewall.monitor import FirewallMonitor
from kvmigd.host.firewall.packet import Verdict
from kvmigd.host.firewall.question import Question
from kvmigd.host.firewall.zones import Zone, Zones
from kvmigd.host.picture import Picture
from kvmigd.model.firewall import Answer, Duration, Firewall, FirewallBackend, PortHint
from kvmigd.model.links import Links, RouteFact

CONFIG = Config(name="hosta", directory=Path("/etc/kvmigd"))
ROUTE = RouteFact(peer="hostb", address="10.77.1.12", link="mig0", source="10.77.1.11")


class News:
    """nftables' generations."""

    def __init__(self, heard: Callable[[], None]) -> None:
        self.current = 7
        self.heard = heard
        self.refusal: OSError | None = None

    async def __aenter__(self) -> News:
        if self.refusal is not None:
            raise self.refusal
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def tell(self) -> None:
        self.current += 1
        self.heard()


class Nft(Reader):
    """Closes some ports."""

    def __init__(self) -> None:
        super().__init__()
        self.closed: set[int] = set()
        self.failure = ""
        self.runs = 0
        self.goes_on = threading.Event()
        self.goes_on.set()

    def read(self, questions: Sequence[Question], children: Children) -> Rules:
        self.runs += 1
        if self.failure:
            raise DumpFailed(self.failure)
        rules = Rules(active=True, verdicts=tuple(self._verdict(question) for question in questions))
        self.goes_on.wait(10)
        return rules

    def _verdict(self, question: Question) -> Verdict:
        closes = bool(self.closed & set(range(question.first, question.last + 1)))
        return Verdict(answer=Answer.CLOSED, by="a rule") if closes else Verdict(answer=Answer.OPEN)


class World:
    """A monitor at work."""

    def __init__(self, picture: Picture, nft: Nft, monitor: FirewallMonitor, news: News) -> None:
        self.picture = picture
        self.nft = nft
        self.monitor = monitor
        self.news = news

    @property
    def firewall(self) -> Firewall:
        return self.picture.state.firewall

    def hint(self, purpose: str = "stream", peer: str = "hostb") -> PortHint | None:
        return next((it for it in self.firewall.hints if (it.peer, it.purpose) == (peer, purpose)), None)

    def answer(self, purpose: str = "stream") -> Answer | None:
        hint = self.hint(purpose)
        return hint.answer if hint else None

    def backend(self, name: str) -> FirewallBackend:
        return next(it for it in self.firewall.backends if it.name == name)

    async def until(self, met: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not met():
                await asyncio.sleep(0.005)


async def no_bus() -> Bus:
    raise KvmigdError("there is no bus")


@asynccontextmanager
async def world(root: Path, *, refusal: OSError | None = None, wait: bool = True) -> AsyncIterator[World]:
    picture, nft = Picture(), Nft()
    async with Files() as files:
        monitor = FirewallMonitor(picture, files, CONFIG, bus=no_bus, root=root, reader=nft)
        news = News(monitor._wake.set)
        news.refusal = refusal
        monitor._generations = news  # type: ignore[assignment]
        task = asyncio.create_task(monitor.run())
        made = World(picture, nft, monitor, news)
        try:
            picture.publish(Links(problem="", routes=(ROUTE,)))
            if wait:
                await made.until(lambda: made.answer() is not None)
            yield made
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def test_a_new_generation_is_read_once(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as it:
            assert it.answer() is Answer.OPEN
            runs = it.nft.runs
            it.nft.closed = {49200}
            for _ in range(5):
                it.news.tell()
            await it.until(lambda: it.answer() is Answer.CLOSED)
            assert it.answer("control") is Answer.OPEN
            assert it.backend("nftables").generation == it.news.current
            assert it.nft.runs - runs <= 2

    asyncio.run(run())


def test_rules_are_not_read_again_for_what_does_not_change_them(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as it:
            runs = it.nft.runs
            it.monitor.apply(CONFIG)
            await it.monitor.refresh()
            await it.monitor.refresh()
            assert it.nft.runs == runs
            it.news.tell()
            await it.monitor.refresh()
            assert it.nft.runs == runs + 1

    asyncio.run(run())


def test_rules_of_an_unknown_generation_are_read_each_time(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as it:
            it.news.current = 0  # the kernel has told more than could be heard
            await it.monitor.refresh()
            runs = it.nft.runs
            await it.monitor.refresh()
            assert it.nft.runs == runs + 1

    asyncio.run(run())


def test_rules_that_cannot_be_read_are_unknown_since_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)

    async def run() -> None:
        async with world(tmp_path) as it:
            it.nft.failure = "nft has not answered within 5 s"
            it.news.tell()
            await it.until(lambda: it.answer() is Answer.UNKNOWN)
            backend = it.backend("nftables")
            assert "has not answered" in backend.problem
            assert backend.problem_since_usec > 0
            it.nft.failure = ""
            await it.until(lambda: it.answer() is Answer.OPEN)
            assert it.backend("nftables").problem_since_usec == 0

    asyncio.run(run())


def test_without_the_kernels_news_nothing_is_told_as_known(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path, refusal=PermissionError(1, "Operation not permitted")) as it:
            assert it.answer() is Answer.UNKNOWN
            assert "CAP_NET_ADMIN" in it.backend("nftables").problem

    asyncio.run(run())


def test_a_ruleset_that_was_never_touched_needs_no_nft(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as it:
            it.nft.failure = "nft cannot be run"
            it.news.current = 0
            it.news.tell()
            await it.until(lambda: not it.backend("nftables").active)
            assert it.answer() is Answer.OPEN

    asyncio.run(run())


def test_ports_follow_configuration_and_files(tmp_path: Path) -> None:
    (tmp_path / "etc/libvirt").mkdir(parents=True)

    async def run() -> None:
        async with world(tmp_path) as it:
            it.monitor.apply(msgspec.structs.replace(CONFIG, listen=Listen(port=17000)))
            await it.until(lambda: it.firewall.ports[0].first == 17000)
            (tmp_path / "etc/libvirt/libvirtd.conf").write_text('tls_port = "16600"\n')
            await it.until(lambda: any(port.first == 16600 for port in it.firewall.ports))

    asyncio.run(run())


def test_peers_come_and_go(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as it:
            runs = it.nft.runs
            it.picture.publish(Links(problem="", routes=(ROUTE,), openvswitch="something else"))
            other = RouteFact(peer="hostc", address="10.77.1.13")
            it.picture.publish(Links(problem="", routes=(ROUTE, other)))
            await it.until(lambda: it.hint(peer="hostc") is not None)
            assert it.nft.runs == runs + 1
            it.picture.unknown(Links, "netlink is away")
            await it.until(lambda: not it.firewall.hints)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("runtime", "stored", "duration"),
    [
        (((1, 65535),), ((1, 65535),), Duration.PERMANENT),
        (((1, 65535),), (), Duration.RUNTIME),
        ((), ((1, 65535),), Duration.UNKNOWN),
    ],
)
def test_firewalld_tells_how_long(
    tmp_path: Path, runtime: tuple[tuple[int, int], ...], stored: tuple[tuple[int, int], ...], duration: Duration
) -> None:
    async def run() -> None:
        async with world(tmp_path) as it:
            it.monitor._firewalld._tell(
                Known(
                    active=True,
                    problem="",
                    runtime=Zones(default="public", zones=(Zone(name="public", ports=runtime),)),
                    permanent=Zones(default="public", zones=(Zone(name="public", ports=stored),)),
                )
            )
            hint = it.hint()
            assert hint is not None
            assert (hint.answer, hint.duration) == (Answer.OPEN, duration), "the kernel's answer stands"
            assert hint.by == ("zone public" if duration is not Duration.UNKNOWN else "")

    asyncio.run(run())


def test_a_refresh_reads_what_nobody_tells_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules: dict[str, iptables.Rules] = {}
    monkeypatch.setattr(legacy, "read", lambda *_, **__: legacy.Legacy(active=bool(rules), rules=dict(rules)))

    async def run() -> None:
        async with world(tmp_path) as it:
            assert not it.monitor.has_untold
            (tmp_path / "proc/net").mkdir(parents=True)
            (tmp_path / "proc/net/ip_tables_names").write_text("filter\n")
            assert it.monitor.has_untold
            assert it.answer("control") is Answer.OPEN
            rules["iptables-legacy-save"] = iptables.parse(
                "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp --dport 16515 -j DROP\nCOMMIT\n"
            )
            await it.monitor.refresh()
            assert it.answer("control") is Answer.CLOSED

    asyncio.run(run())


def test_a_refresh_during_a_read_waits_for_the_next(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as it:
            runs = it.nft.runs
            it.nft.goes_on.clear()
            it.news.tell()
            await it.until(lambda: it.nft.runs > runs)
            it.nft.closed = {16515}
            it.news.current += 1
            refreshing = asyncio.ensure_future(it.monitor.refresh())
            await asyncio.sleep(0)
            it.nft.goes_on.set()
            await refreshing
            assert it.answer("control") is Answer.CLOSED

    asyncio.run(run())
