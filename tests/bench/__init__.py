"""Figures, each printed beside what it is compared with. The last line of each is one JSON object."""
