"""Moving one guest to a peer."""
