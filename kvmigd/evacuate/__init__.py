"""Emptying a host."""
