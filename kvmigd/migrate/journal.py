"""The intent journal: what is under way between two hosts is on the disk of each before anything of it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import msgspec
import structlog

from kvmigd.errors import StateNotKept
from kvmigd.model.passage import Arrival, Departure
from kvmigd.store import Store

log = structlog.get_logger(__name__)

Record = TypeVar("Record", Departure, Arrival)


class Records(Generic[Record]):
    """The open records of one kind, by the job's UUID. What is kept is on the disk when the call returns."""

    def __init__(self, store: Store, kind: str, shape: type[Record]) -> None:
        self._store = store
        self._kind = kind
        self._shape = shape
        self._open: dict[str, Record] = {}
        self._closed: set[str] = set()
        """Those that could not be taken off the disk yet."""
        self._listeners: list[Callable[[], None]] = []

    def load(self) -> None:
        """Read what an earlier run of the daemon has left. Raises StateNotKept.

        A record that cannot be understood is told of and stays where it is: it may be a newer kvmigd's.
        """
        for key, text in self._store.records(self._kind).items():
            try:
                self._open[key] = msgspec.json.decode(text, type=self._shape)
            except (msgspec.DecodeError, ValueError) as error:
                log.error("record not understood", kind=self._kind, job=key, error=str(error))

    def __iter__(self) -> Iterator[Record]:
        return iter(tuple(self._open.values()))

    def get(self, job: str) -> Record | None:
        """The open record of a job."""
        return self._open.get(job)

    def of_guest(self, uuid: str) -> Record | None:
        """The open record of a guest."""
        return next((record for record in self._open.values() if record.guest_uuid == uuid), None)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` when a record has come, changed or gone."""
        self._listeners.append(listener)

    async def keep(self, record: Record) -> None:
        """Keep a record, in the place of the job's older one. Raises StateNotKept and changes nothing."""
        if self._open.get(record.job) == record:
            return
        await self._store.put_record(self._kind, record.job, msgspec.json.encode(record).decode())
        self._closed.discard(record.job)
        self._open[record.job] = record
        self._changed()

    async def note(self, record: Record) -> None:
        """Keep a record as well as it can be done: for what the disk need not know to find the way later."""
        try:
            await self.keep(record)
        except StateNotKept as error:
            log.warning("record not kept", kind=self._kind, job=record.job, error=error.message)
            self._open[record.job] = record
            self._changed()

    async def close(self, job: str) -> None:
        """The job is over. A disk that is full at the moment is tried again by `tidy`."""
        if self._open.pop(job, None) is not None:
            self._closed.add(job)
            self._changed()
        await self.tidy()

    @property
    def untidy(self) -> bool:
        """There are records on the disk that are over."""
        return bool(self._closed)

    async def tidy(self) -> None:
        """Take what is over off the disk."""
        for job in tuple(self._closed):
            try:
                await self._store.drop_record(self._kind, job)
            except StateNotKept as error:
                log.warning("record not dropped", kind=self._kind, job=job, error=error.message)
                return
            self._closed.discard(job)

    def _changed(self) -> None:
        for listener in tuple(self._listeners):
            listener()


class Journal:
    """Both kinds of records of this host."""

    def __init__(self, store: Store) -> None:
        self.departures = Records(store, "departure", Departure)
        self.arrivals = Records(store, "arrival", Arrival)

    def load(self) -> None:
        """Read what an earlier run of the daemon has left."""
        self.departures.load()
        self.arrivals.load()
