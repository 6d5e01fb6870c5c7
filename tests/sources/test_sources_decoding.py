"""From encoded images to pixels."""

import io

import pytest
from made_tars import jpeg
from PIL import Image

from superbatch.sources import decoding
from superbatch.sources.decoding import decoded


def encoded(side, kind="JPEG"):
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, kind)
    return file.getvalue()


@pytest.mark.skipif(decoding.decode_jpeg is None, reason="torchvision decodes no JPEGs here")
def test_only_so_many_pixels_are_decoded_together(monkeypatch):
    together = []
    decode_jpeg = decoding.decode_jpeg

    def counted(tensors, **settings):
        images = decode_jpeg(tensors, **settings)
        together.append([image.shape[1] for image in images])
        return images

    monkeypatch.setattr(decoding, "decode_jpeg", counted)
    monkeypatch.setattr(decoding, "_PIXELS_AT_ONCE", 500)
    sides = [10, 10, 12, 7, 30, 20, 10, 5]
    images = [encoded(side, "PNG" if side == 7 else "JPEG") for side in sides]
    assert [image.shape for image in decoded(images)] == [(3, side, side) for side in sides]
    assert together == [[10, 10, 12], [30], [20, 10], [5]]


def test_images_are_decoded_when_they_are_asked_for(monkeypatch):
    asked = []
    alone = decoding._decoded_alone
    monkeypatch.setattr(decoding, "_decoded_alone", lambda image: asked.append(1) or alone(image))
    images = iter(decoded([encoded(3, "PNG"), encoded(4, "PNG")]))
    assert next(images).shape == (3, 3, 3)
    assert len(asked) == 1


def test_images_too_large_to_decode_are_left_out(monkeypatch):
    small, large = jpeg(7, side=20), jpeg(7, side=21)
    files = {}
    for kind in ("PNG", "WEBP"):
        for side in (20, 21):
            file = io.BytesIO()
            Image.new("RGB", (side, side)).save(file, kind)
            files[kind, side] = file.getvalue()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    images = [small, large, files["PNG", 20], files["PNG", 21]]
    images += [files["WEBP", 20], files["WEBP", 21]]
    assert [image is not None for image in decoded(images)] == [True, False] * 3


def test_a_header_cannot_make_us_allocate():
    bomb = bytearray(jpeg())
    at = bomb.index(b"\xff\xc0")
    bomb[at + 5 : at + 9] = b"\xff\xdc\xff\xdc"  # 65,500 x 65,500 pixels, 12.9 GB
    behind = bytes(bomb[:2]) + b"\xff\xff\xff" + bytes(bomb[3:])  # fill bytes are allowed
    hidden = bytes(bomb[:2]) + b"\0junk\0" + bytes(bomb[2:])
    assert list(decoded([bytes(bomb), behind, hidden, jpeg(5)]))[:3] == [None] * 3
