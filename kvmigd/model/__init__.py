"""Plain frozen data: what kvmigd knows and says. Imports nothing of kvmigd but its own modules."""
