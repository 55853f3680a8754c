"""Proofs with one peer: what two daemons try together before a migration rests on it."""
