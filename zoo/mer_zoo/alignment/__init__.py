"""Visual-to-acoustic alignment: a visual encoder's features brought into the space of acoustic ones.

The paper (arXiv 2409.05015) says that a visual encoder is trained on unlabelled clips so that its features
align with the acoustic ones, and not how: everything here is *reconstructed*.
"""

from mer_zoo.alignment.settings import LOSSES, AlignSettings, EncoderSettings

__all__ = ["LOSSES", "AlignSettings", "EncoderSettings"]
