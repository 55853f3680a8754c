"""What tests of migrations and evacuations run against."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
from hypothesis import settings

from kvmigd.config import Pki
from kvmigd.host import remote, system
from kvmigd.model.host import RemoteFact, ResolvedName
from tests.unit.daemon_lab import Side, daemons


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a test against so many daemons. Names of hosts resolve to something, as they would on real ones."""

    async def resolve(name: str) -> ResolvedName:
        return ResolvedName(name=name, addresses=("192.0.2.1",))

    async def connect(uri: str, _pki: Pki) -> RemoteFact:
        return RemoteFact(uri=uri)

    monkeypatch.setattr(system, "resolve", resolve)
    monkeypatch.setattr(remote, "_connect", connect)

    def run_with(test: Callable[[dict[str, Side]], Coroutine[None, None, None]], *, hosts: int = 2) -> None:
        async def body() -> None:
            async with asyncio.timeout(30), daemons(tmp_path, hosts) as sides:
                await test(sides)

        asyncio.run(body())

    return run_with


settings.register_profile("quick", max_examples=40)
settings.register_profile("thorough", max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
