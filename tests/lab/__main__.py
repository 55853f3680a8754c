"""`python -m tests.lab`: a lab by hand."""

from __future__ import annotations

import argparse
import functools
import shlex
import subprocess
import sys

from tests.lab import caches, outer
from tests.lab.command import LabError
from tests.lab.lab import Lab, down
from tests.lab.places import default_name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="Boots hosts for tests of live migration.")
    parser.add_argument("--name", default=default_name(), help="which lab (default: $KVMIGD_LAB, else %(default)s)")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("prepare", help="install what this machine needs")
    up = verbs.add_parser("up", help="bring the lab up, from nothing")
    up.add_argument("--hosts", type=int, default=2, choices=(1, 2, 3))
    up.add_argument("--bare", action="store_true", help="without kvmigd")
    verbs.add_parser("reset", help="remove all guests and faults")
    take_down = verbs.add_parser("down", help="take the lab down; nothing of it stays but caches")
    take_down.add_argument("--purge", action="store_true", help="remove caches that no other lab uses, too")
    execute = verbs.add_parser("exec", help="run a command on a host")
    execute.add_argument("host")
    execute.add_argument("command", nargs=argparse.REMAINDER)
    verbs.add_parser("status", help="say what is up")
    return parser


def _execute(lab: Lab, host: str, command: list[str]) -> int:
    words = command[1:] if command[:1] == ["--"] else command
    return subprocess.call(lab.host(host).words(words or ["bash", "-l"]), env=lab.host(host).environment)


def _status(name: str) -> int:
    lab = Lab.attach(name)
    print(f"lab {lab.name}, {'with' if lab.has_kvmigd else 'without'} kvmigd")
    for host in (lab.store, *lab.hosts):
        state = host.run("systemctl", "is-system-running", check=False).stdout.strip() if host.is_on else "off"
        print(f"{host.name:6} {state:10} init {host.init() or '-'}")
    return 0


def main() -> int:
    """Do what the command line says."""
    arguments = _parser().parse_args()
    match arguments.verb:
        case "prepare":
            installed = outer.prepare()
            print(f"installed: {shlex.join(installed)}" if installed else "nothing is missing")
        case "up":
            log = functools.partial(print, flush=True)
            Lab.up(arguments.name, hosts=arguments.hosts, bare=arguments.bare, log=log)
        case "reset":
            Lab.attach(arguments.name).reset()
        case "down":
            down(arguments.name)
            if arguments.purge and (stay := caches.purge()):
                print(f"still used by other labs: {', '.join(stay)}")
        case "exec":
            return _execute(Lab.attach(arguments.name), arguments.host, arguments.command)
        case "status":
            return _status(arguments.name)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"lab: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
