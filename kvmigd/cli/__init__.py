"""kvmigctl, the command line of kvmigd. It speaks only D-Bus; `pki` alone writes files."""


def main() -> None:
    """Entry point of `kvmigctl`."""
    from kvmigd.cli.program import program

    program(prog_name="kvmigctl")
