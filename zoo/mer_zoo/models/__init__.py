"""The built-in fusion models, one family a file."""
