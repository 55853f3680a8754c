"""The host's packet filters: which ports a migration needs, and whether they let peers reach them."""
