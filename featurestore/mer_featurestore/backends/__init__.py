"""The two file formats a store is kept in: Zarr v3 folders and HDF5 files."""
