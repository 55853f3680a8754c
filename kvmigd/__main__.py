"""`python -m kvmigd` runs the daemon."""

from kvmigd.daemon import main

main()
