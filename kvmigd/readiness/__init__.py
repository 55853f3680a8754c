"""What is known of each guest and each peer: what was looked at, what was tried, and what follows from it."""
