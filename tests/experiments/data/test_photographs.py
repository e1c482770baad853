"""Photographs: what a file holds is read right, or refused by name."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from experiments.data import photographs

IMAGE = photographs.bundled("coffee")[100:132, 200:240]
# Of Display P3, adapted to D50, as its profile has them.
P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))


def profile_of(space, name, colorants=(), gamma=2.2):
    """A small ICC profile of version 2: a matrix and a gamma, or a gamma alone."""

    def xyz(values):
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * x) for x in values))

    text = name.encode()
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * gamma)) + b"\0\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + bytes(79),
        b"wtpt": xyz((0.9642, 1.0, 0.8249)),
    }
    if colorants:
        tags |= {b"rgb"[k : k + 1] + b"XYZ": xyz(x) for k, x in enumerate(colorants)}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    else:
        tags[b"kTRC"] = curve
    table, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for tag, value in tags.items():
        value += bytes(-len(value) % 4)
        table += tag + struct.pack(">2I", start + len(body), len(value))
        body += value
    head = bytes(4) + b"lcms" + struct.pack(">I", 0x02100000) + b"mntr" + space + b"XYZ "
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    content = head + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(content)) + content[4:]


DISPLAY_P3 = profile_of(b"RGB ", "Display P3", P3)
GREY = profile_of(b"GRAY", "Linear grey", gamma=1.0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def png(values, color, *chunks):
    """A PNG file of 8 or 16 bits with further chunks, by hand."""

    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    depth = 8 * values.dtype.itemsize
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in values)
    head = struct.pack(">2I5B", values.shape[1], values.shape[0], depth, color, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def deep(step=0):
    """16-bit colours which differ from those of another step by less than 8 bits show."""
    return (IMAGE.astype(np.uint16) * 257 & 0xFF00) + np.uint16(step)


def in_8_bits(format, **options):
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).save(buffer, format, **options)
    return buffer.getvalue()


def tiff(values, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def with_bytes(content, place, value):
    return content[:place] + value + content[place + len(value) :]


def deep_jpeg2000():
    """8 bits whose header says 12."""
    content = in_8_bits("JPEG2000")
    return with_bytes(content, content.index(b"\xff\x4f\xff\x51") + 42, b"\x0b")


DEPTHS = {
    "16-bit RGB.png": (lambda: png(deep(), 2), "it has 16"),
    "16-bit RGBA.png": (lambda: png(np.dstack([deep(), deep()[..., :1]]), 6), "it has 16"),
    "16-bit grey and alpha.png": (lambda: png(deep()[..., :2], 4), "it has 16"),
    "16-bit grey.png": (lambda: png(deep()[..., 0], 0), "its mode is I;16"),
    "16-bit RGB.tif": (lambda: tiff(deep(), photometric="rgb"), "it has 16"),
    "16-bit packed.tif": (lambda: tiff(deep(), photometric="rgb", compression="zlib"), "has 16"),
    "16-bit planes.tif": (
        lambda: tiff(deep().transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
        "it has 16",
    ),
    "big-endian.tif": (lambda: tiff(deep(), photometric="rgb", byteorder=">"), "it has 16"),
    "float grey.tif": (lambda: tiff(IMAGE[..., 0] / np.float32(255)), "its mode is F"),
    "float RGB.tif": (lambda: tiff(IMAGE / np.float32(255), photometric="rgb"), "is not an image"),
    "signed.tif": (lambda: tiff(IMAGE[..., 0].astype(np.int8)), "it has 32"),
    "16-bit.ppm": (
        lambda: b"P6\n40 32\n65535\n" + deep().astype(">u2").tobytes(),
        "it has 16",
    ),
    "10-bit.ppm": (lambda: b"P6\n40 32\n1023\n" + (deep() >> 6).astype(">u2").tobytes(), "has 10"),
    "16-bit.sgi": (lambda: in_8_bits("SGI", bpc=2), "it has 16"),
    "12-bit.jp2": (deep_jpeg2000, "it has 12"),
}


@pytest.mark.parametrize("name", DEPTHS)
def test_more_than_8_bits_are_refused_and_not_rounded(tmp_path, name):
    content, message = DEPTHS[name]
    (tmp_path / name).write_bytes(content())
    with pytest.raises(ValueError, match=f"{name} .*{message}"):
        photographs.read(tmp_path / name)


@pytest.mark.parametrize(("flags", "bits"), [(0x0C, 8), (0x4C, 10), (0x6C, 12)])
def test_the_bits_of_avif_are_those_of_its_header(flags, bits):
    content = in_8_bits("AVIF")
    image = Image.open(io.BytesIO(content))
    content = with_bytes(content, content.index(b"av1C") + 6, bytes([flags]))
    assert photographs._bits(image, content) == bits


@pytest.mark.parametrize(
    "name", ["a.png", "a.tif", "a.bmp", "a.ppm", "a.tga", "a.sgi", "a.jp2", "a.webp", "a.gif"]
)
def test_8_bits_of_any_format_are_read(tmp_path, name):
    lossless = {"lossless": True} if name == "a.webp" else {}
    Image.fromarray(IMAGE).save(tmp_path / name, **lossless)
    found = photographs.read(tmp_path / name)
    assert found.shape == IMAGE.shape and found.dtype == np.uint8
    if name != "a.gif":
        np.testing.assert_array_equal(found, IMAGE)


def test_lossy_formats_are_read(tmp_path):
    for name in ("a.jpg", "a.avif"):
        Image.fromarray(IMAGE).save(tmp_path / name, quality=95)
        assert np.abs(photographs.read(tmp_path / name).astype(int) - IMAGE).mean() < 8


def srgb_of_p3(values):
    """By hand: out of gamma 2.2, from P3's primaries to sRGB's, into sRGB's curve."""
    srgb = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))
    linear = (values / 255.0) ** 2.2 @ np.array(P3) @ np.linalg.inv(srgb)
    linear = np.clip(linear, 0.0, 1.0)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return 255.0 * curved


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_another_space_is_converted_with_a_note(tmp_path, capsys, name):
    options = {"lossless": True} if name == "a.webp" else {}
    Image.fromarray(IMAGE).save(tmp_path / name, icc_profile=DISPLAY_P3, **options)
    found = photographs.read(tmp_path / name)
    assert np.abs(found - srgb_of_p3(IMAGE)).max() < 2.0
    assert np.abs(found.astype(int) - IMAGE).max() > 10  # they were not the same
    assert f"{name} is converted to sRGB from its colour profile, Display P3" in (
        capsys.readouterr().out
    )


def test_profiles_of_opaque_palettes_and_alpha_and_grey_are_kept_to(tmp_path):
    rgb = Image.fromarray(IMAGE)
    palette = rgb.quantize(50)
    palette.save(tmp_path / "palette.png", icc_profile=DISPLAY_P3)
    expected = srgb_of_p3(np.asarray(palette.convert("RGB")))
    assert np.abs(photographs.read(tmp_path / "palette.png") - expected).max() < 2.0
    rgb.convert("RGBA").save(tmp_path / "opaque.png", icc_profile=DISPLAY_P3)
    assert np.abs(photographs.read(tmp_path / "opaque.png") - srgb_of_p3(IMAGE)).max() < 2.0
    linear = IMAGE[..., 0] / 255.0
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    for mode in ("L", "LA"):
        Image.fromarray(IMAGE[..., 0]).convert(mode).save(tmp_path / "g.png", icc_profile=GREY)
        found = photographs.read(tmp_path / "g.png")
        assert np.abs(found - 255.0 * curved[..., None]).max() < 2.0


def test_a_profile_of_srgb_changes_nothing(tmp_path, capsys):
    Image.fromarray(IMAGE).save(tmp_path / "a.png", icc_profile=SRGB)
    np.testing.assert_array_equal(photographs.read(tmp_path / "a.png"), IMAGE)
    Image.fromarray(IMAGE[..., 0]).save(tmp_path / "grey.png", icc_profile=SRGB)
    assert (photographs.read(tmp_path / "grey.png") == IMAGE[..., :1]).all()
    assert capsys.readouterr().out == ""


def exif(**options):
    """EXIF that names a colour space, or an interoperability index."""
    found = Image.Exif()
    if "space" in options:
        found.get_ifd(0x8769)[0xA001] = options["space"]
    return found


def jpeg(**options):
    return in_8_bits("JPEG", **options)


def gamma(value):
    return png(IMAGE, 2, (b"gAMA", struct.pack(">I", round(1e5 * value))))


def chromaticities(*values):
    return png(IMAGE, 2, (b"cHRM", struct.pack(">8I", *(round(1e5 * x) for x in values))))


def cmyk(**options):
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).convert("CMYK").save(buffer, "TIFF", **options)
    return buffer.getvalue()


COLORS = {
    "cmyk.tif": (cmyk, "must be in sRGB, it has CMYK without a profile; convert it first"),
    "odd.tif": (
        lambda: cmyk(icc_profile=DISPLAY_P3),
        "must have a profile of its own colours, its mode is CMYK and its profile of RGB",
    ),
    "grey.png": (
        lambda: in_8_bits("PNG", icc_profile=GREY),
        "its mode is RGB and its profile of GRAY",
    ),
    "broken.png": (lambda: in_8_bits("PNG", icc_profile=b"no profile" * 20), "damaged colour prof"),
    "adobe.jpg": (lambda: jpeg(exif=exif(space=2)), "it has Adobe RGB without a profile"),
    "linear.png": (lambda: gamma(1.0), "it has gamma 1;"),
    "primaries.png": (
        lambda: chromaticities(0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
        "it has chromaticities",
    ),
    "video.png": (lambda: png(IMAGE, 2, (b"cICP", bytes((12, 13, 0, 1)))), "primaries 12 and"),
    "hdr.png": (lambda: png(IMAGE, 2, (b"cICP", bytes((9, 16, 0, 1)))), "curve 16 of H.273"),
}


@pytest.mark.parametrize("name", COLORS)
def test_colors_that_are_not_srgb_are_refused_by_name(tmp_path, name):
    content, message = COLORS[name]
    (tmp_path / name).write_bytes(content())
    with pytest.raises(ValueError, match=f"{name} .*{message}"):
        photographs.read(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        gamma(0.45455),
        chromaticities(0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06),
        png(IMAGE, 2, (b"cICP", bytes((1, 13, 0, 1)))),
        png(IMAGE, 2, (b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45455))),
    ],
    ids=["gamma", "chromaticities", "cICP", "sRGB"],
)
def test_colors_that_say_they_are_srgb_are_read(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    np.testing.assert_array_equal(photographs.read(tmp_path / "a.png"), IMAGE)


def test_a_transparent_palette_is_refused(tmp_path):
    Image.fromarray(IMAGE).quantize(20).save(tmp_path / "a.png", transparency=3)
    with pytest.raises(ValueError, match=r"a\.png must be opaque, .* of its pixels are not"):
        photographs.read(tmp_path / "a.png")


def test_orientation_is_applied_before_the_profile(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # stored turned by a quarter
    stored = Image.fromarray(np.rot90(IMAGE))
    stored.save(tmp_path / "a.png", exif=turned, icc_profile=DISPLAY_P3)
    assert np.abs(photographs.read(tmp_path / "a.png") - srgb_of_p3(IMAGE)).max() < 2.0


def test_a_folder_leaves_out_what_cannot_be_read_and_says_so(tmp_path, capsys):
    Image.fromarray(IMAGE).save(tmp_path / "b.png")
    Image.fromarray(IMAGE[::-1]).save(tmp_path / "a.bmp")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "deep.png").write_bytes(png(deep(), 2))
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "notes.txt").write_text("nothing")
    assert list(photographs.in_folder(tmp_path)) == ["a.bmp", "b.png"]
    said = capsys.readouterr().out
    assert said.count("left out: ") == 4  # a line for each image, and one for all others
    assert "left out: 1 that are no images by name, as notes.txt" in said
    assert "text.png is not an image" in said and "folder.jpg is not a file" in said
    for name in ("a.bmp", "b.png"):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match="has none that can be read"):
        photographs.in_folder(tmp_path)
