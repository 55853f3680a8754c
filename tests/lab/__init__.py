"""The lab: real hosts with libvirt, QEMU and shared storage, booted as containers on one machine.

`python -m tests.lab up` boots them by hand, the fixtures in `conftest.py` boot them for pytest, and the README of this
folder says what is where. Standard library only.
"""
