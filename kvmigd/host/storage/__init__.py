"""What storage is: identities by which two hosts can tell whether they have the same. Kept true by events."""
