"""Features and labels in and out of the store, in the formats other tools of the field use."""
