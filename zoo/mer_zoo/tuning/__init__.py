"""Tuning encoders on labelled clips: an adapter, or one per fold, trained with a class head on top."""
