import io
import struct
import zlib

import pytest
from PIL import Image

from mnq.models import decode as module
from mnq.models.decode import decode


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
def test_decode_reads(kind: str) -> None:
    image = decode(encoded(Image.new("RGB", (5, 7), (200, 10, 10)), kind))
    assert image.size == (5, 7)
    assert image.getpixel((2, 2))[0] > 150


def test_decode_counts_pixels_from_the_header_when_the_image_is_a_bomb() -> None:
    # A PNG header of 60000 x 60000 with no pixels behind it: refused before they are missed.
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
    data += struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IDAT\x35\xaf\x06\x1e"
    with pytest.raises(Exception, match="pixels"):
        decode(data)


def test_decode_counts_pixels_itself_below_the_limit_of_pil(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 34)
    with pytest.raises(ValueError, match="5x7 is more than 34 pixels"):
        decode(encoded(Image.new("RGB", (5, 7)), "PNG"))


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"GIF89a" + b"\0" * 50, b"%!PS-Adobe-3.0"])
def test_decode_refuses_other_content_without_naming_an_address(data: bytes) -> None:
    with pytest.raises(ValueError, match="not an image of the kinds BMP, JPEG") as caught:
        decode(data)
    assert "0x" not in str(caught.value)


def test_decode_refuses_a_truncated_image() -> None:
    data = encoded(Image.effect_noise((64, 64), 50), "PNG")
    with pytest.raises(OSError, match=r"truncated|broken"):
        decode(data[: len(data) // 2])
