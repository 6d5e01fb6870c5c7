"""Tars made on the spot, whole and odd."""

import io
import tarfile

from PIL import Image


def jpeg(value=0, side=4):
    file = io.BytesIO()
    Image.new("RGB", (side, side), (value,) * 3).save(file, "JPEG")
    return file.getvalue()


def tar_of(*members):
    """A tar of (name, bytes) and of ready ``TarInfo``s."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                name, content = member
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def odd(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


TWO = (("a.jpg", jpeg(1)), ("a.txt", b"a dog"), ("b.jpg", jpeg(2)), ("b.txt", b"a cat"))
