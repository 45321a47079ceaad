"""What a picture's file holds: which formats are `known`, and how each stores samples, metadata and our record.

`samples` are what Pillow decodes; `chunks` (of a PNG), `exif` and `xmp` are metadata as bytes, `embedded` is our record
among them, and `jxl` is JPEG XL for Pillow. What is made of these is in `irn_cli.metadata` and `irn_cli.image`.
"""
