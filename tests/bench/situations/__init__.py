"""Situations in which a guest shall move, made for real: faults, harmless differences, and nothing at all."""

from tests.bench.situations import guest, harmless, identity, machine, network, ports, storage, supplies
from tests.bench.situations.situation import ALL, Situation, Truth

SITUATIONS = tuple(ALL)

__all__ = [
    "SITUATIONS",
    "Situation",
    "Truth",
    "guest",
    "harmless",
    "identity",
    "machine",
    "network",
    "ports",
    "storage",
    "supplies",
]
