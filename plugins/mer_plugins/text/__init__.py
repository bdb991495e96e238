"""Text extractors, one family a file."""
