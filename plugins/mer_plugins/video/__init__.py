"""Video extractors, one family a file."""
