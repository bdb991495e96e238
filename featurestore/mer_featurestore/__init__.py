"""The feature store: clips, features, labels and runs under one journal of commits."""
