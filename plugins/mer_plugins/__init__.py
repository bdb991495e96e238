"""Extractor plugins: the contract, the hooks, the built-in extractors and the pipeline around them."""
