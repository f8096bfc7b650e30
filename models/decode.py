"""Bytes of an image file to pixels, for files that nobody has vouched for."""

from __future__ import annotations

import io
import warnings

from PIL import Image, UnidentifiedImageError

from mnq.models.preprocess import MAX_PIXELS

__all__ = ["decode"]

# Raster formats that PIL decodes itself, recognised by content. EPS would start Ghostscript.
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def decode(data: bytes) -> Image.Image:
    """Decode an image (its first frame) of at most MAX_PIXELS pixels, in the file's own mode.

    Raises whatever PIL raises for corrupt data, and ValueError for too many pixels, which are
    counted from the header, before memory is taken for them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd EXIF data, and sizes that are checked here
        try:
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        except UnidentifiedImageError:  # its text is a memory address
            raise ValueError(f"not an image of the kinds {', '.join(_FORMATS)}") from None
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} is more than {MAX_PIXELS} pixels")
        image.load()
    return image
