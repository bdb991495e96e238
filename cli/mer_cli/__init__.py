"""The commands mer-fs and mer-zoo: parse, one library call, print."""
