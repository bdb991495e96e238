"""A synthetic tri-modal corpus of real media files: for demos and tests, not for science.

Voices, faces and sentences are made from tables somebody wrote down (`acting.py`, `sentences.py`); a score on
them says that the machinery works and nothing about emotion recognition.
"""

from mer_plugins.synthetic.acting import EMOTIONS
from mer_plugins.synthetic.corpus import split_sizes, write_corpus

__all__ = ["EMOTIONS", "split_sizes", "write_corpus"]
