"""Pure rules: (guest, source, destination) -> findings. No I/O; one module a subject; the catalogue joins them."""
