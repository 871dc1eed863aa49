"""Image data sets, from the user's files or through TensorFlow Datasets."""

from pathlib import Path

from train import require
from train.images import cifar_files, photo_files
from train.images.cifar_files import SOURCES, Images
from train.images.photo_files import PhotoSet

# The modules that import TensorFlow Datasets are imported where they are needed: files
# of the user are read without it.


def load_cifar(name: str, data_dir: Path | None = None) -> Images:
    """Reads CIFAR-10 or CIFAR-100.

    Args:
        name: One of `cifar_files.SOURCES`. The labels of ``cifar100`` are the fine
            ones.
        data_dir: Folder with the original files, binary or pickled, or the folder
            around it. `None` downloads them once through TensorFlow Datasets.

    Returns:
        The images, unchanged.

    Raises:
        InputError: If files are missing, truncated or malformed, or a download fails.
    """
    require(name in SOURCES, f"no data set {name!r}; choose from: {', '.join(SOURCES)}")
    if data_dir is None:
        from train.images import cifar_tfds

        return cifar_tfds.load(name)
    return cifar_files.read_folder(name, data_dir)


def load_photos(data_dir: Path | None = None) -> PhotoSet:
    """Lists the photographs of a folder, or prepares ImageNet.

    Args:
        data_dir: Folder with ``train`` and ``val``, each of which has one folder for
            each class, or the folder around it. `None` takes ImageNet from TensorFlow
            Datasets, which reads the original archives.

    Returns:
        The photographs. Classes are sorted by name, and so are the files of a class.

    Raises:
        InputError: If something is missing, or the two parts differ in their classes.
    """
    if data_dir is None:
        from train.images import imagenet_tfds

        return imagenet_tfds.load()
    return photo_files.list_folder(data_dir)
