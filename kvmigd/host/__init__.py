"""What is true on this host."""
