"""Audio extractors, one family a file."""
