"""Images too large for memory, read and written by windows: tiled TIFF, OME-TIFF, GeoTIFF, zarr, and ordinary images alike."""
